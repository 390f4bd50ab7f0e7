"""The GPU benchmark runs whole on a CPU, at a tiny size: its gate, its arithmetic, its rows."""

import csv
import importlib.util
import io
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unimixer.backbones import build_backbone, count_parameters
from unimixer.ops import kernels

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_mfu.py"


@pytest.fixture(scope="module")
def gpu_mfu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_mfu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_mfu"] = module
    spec.loader.exec_module(module)
    return module


def test_every_model_passes_the_gate_and_has_a_row_a_form(
    gpu_mfu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--params", "0.05M", "--batch", "32", "--num-tokens", "4", "--repeats", "1"]
    gpu_mfu.main(["--device", "cpu", *sizes, "--forms", "eager", "graph", "--kernels", "reference"])
    first, *table = capsys.readouterr().out.splitlines()
    assert "torch" in first
    assert "TFLOP/s" in first
    rows = list(csv.DictReader(io.StringIO("\n".join(table))))
    assert [(row["model"], row["form"]) for row in rows] == [(m, f) for m in gpu_mfu.MODELS for f in ("eager", "graph")]
    for row in rows:
        if row["form"] == "graph":
            assert row["note"] == "Unavailable: a CUDA graph needs a GPU"
        else:
            assert row["note"] == ""
            assert float(row["mfu"]) > 0
            tflops = float(row["gflops_per_step"]) / float(row["ms_per_step"])
            assert math.isclose(float(row["tflops"]), tflops, rel_tol=0.01)


def test_work_of_a_step_by_hand(gpu_mfu: ModuleType) -> None:
    rule = build_backbone("rankmixer", num_tokens=4, token_dim=16)
    assert gpu_mfu.step_flops(rule) == 6 * count_parameters(rule)  # its mixing multiplies nothing
    learned = build_backbone("unimixer", num_tokens=4, token_dim=16, block_size=4, num_blocks=2)
    mixings = 2 * (16**2 + 16 * 4**2)
    products = 2 * 2 * 64 * (4 + 16)  # two mixings, two FLOPs a multiply-add, 64 numbers by 4 and then by 16
    assert gpu_mfu.step_flops(learned) == 6 * (count_parameters(learned) - mixings) + 3 * products


def test_the_gate_refuses_other_losses_and_other_gradients(gpu_mfu: ModuleType) -> None:
    losses, gradient = [0.7, 0.6, 0.5], torch.tensor([1.0, 0.0])
    gpu_mfu.gate((losses, gradient), (losses, gradient))
    with pytest.raises(AssertionError, match=r"loss 0\.6500 at step 3"):
        gpu_mfu.gate(([0.7, 0.6, 0.65], gradient), (losses, gradient))
    with pytest.raises(AssertionError, match="cosine"):
        gpu_mfu.gate((losses, torch.tensor([0.0, 1.0])), (losses, gradient))
    with pytest.raises(AssertionError, match="nan"):
        gpu_mfu.gate(([0.7, math.nan, 0.5], gradient), (losses, gradient))


def test_kernels_that_cannot_run_have_a_row_that_says_so(
    gpu_mfu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--params", "0.05M", "--batch", "8", "--num-tokens", "4", "--repeats", "1", "--models", "rankmixer"]
    gpu_mfu.main(["--device", "cpu", *sizes, "--forms", "eager", "--kernels", "triton"])
    assert "kernels need Triton and a GPU" in capsys.readouterr().out
    assert kernels.selected() == "reference"
