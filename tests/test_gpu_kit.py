"""The parts of the GPU kit run whole on a CPU, at tiny sizes: their gates, their arithmetic, their rows."""

import csv
import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unimixer.backbones import build_backbone, count_parameters

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
PARTS = ("kit", "models", "sinkhorn", "training")


@pytest.fixture(scope="module")
def kit() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in PARTS}
    sys.path.remove(str(FOLDER))
    for name in PARTS:
        del sys.modules[name]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_pass_and_form_passes_the_gate_and_has_a_row(
    kit: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, models = tmp_path / "models.csv", kit["models"]
    monkeypatch.setattr(models, "SIZES", {"unimixer": {"1M": (16, 16)}, "rankmixer": {"1M": (16, 16)}})
    sizes = ["--params", "1M", "--batch", "32", "--repeats", "1"]
    assert models.main(["--device", "cpu", *sizes, "--forms", "eager", "graph", "--out", str(out)]) == 0
    rows = read(out)
    forms = [(kind, form) for kind in models.PASSES for form in ("eager", "graph")]
    assert [(row["pass"], row["form"]) for row in rows] == 2 * forms
    for row in rows:
        assert row["torch"] == torch.__version__
        if row["form"] == "graph":
            assert row["note"] == "Unavailable: a CUDA graph needs a GPU"
        else:
            assert row["note"] == ""
            assert float(row["mfu"]) > 0
            assert math.isclose(float(row["tflops"]), float(row["gflops"]) / float(row["ms"]), rel_tol=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kit would run whole")
def test_the_kit_refuses_a_machine_without_a_gpu(tmp_path: Path) -> None:
    command = ["bash", str(FOLDER.with_suffix(".sh")), "--out", str(tmp_path / "rows")]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no torch that sees a GPU" in done.stderr
    assert not (tmp_path / "rows").exists()


def test_work_of_a_forward_by_hand(kit: dict[str, ModuleType]) -> None:
    rule = build_backbone("rankmixer", num_tokens=4, token_dim=16)
    assert kit["models"].forward_flops(rule) == 2 * count_parameters(rule)  # its mixing multiplies nothing
    learned = build_backbone("unimixer", num_tokens=4, token_dim=16, block_size=4, num_blocks=2)
    mixings = 2 * (16**2 + 16 * 4**2)
    products = 2 * 2 * 64 * (4 + 16)  # two mixings, two FLOPs a multiply-add, 64 numbers by 4 and then by 16
    assert kit["models"].forward_flops(learned) == 2 * (count_parameters(learned) - mixings) + products


def test_sizes_of_the_models_are_within_four_percent_and_fit_tensor_cores(kit: dict[str, ModuleType]) -> None:
    for name, sizes in kit["models"].SIZES.items():
        for params, (token_dim, hidden_dim) in sizes.items():
            with torch.device("meta"):
                model = build_backbone(name, num_tokens=16, token_dim=token_dim, hidden_dim=hidden_dim)
            assert math.isclose(count_parameters(model), int(params[:-1]) * 1e6, rel_tol=0.04)
            assert token_dim % 8 == hidden_dim % 8 == 0


def test_the_gate_refuses_other_losses_and_other_gradients(kit: dict[str, ModuleType]) -> None:
    losses, gradient, gate = [0.7, 0.6, 0.5], torch.tensor([1.0, 0.0]), kit["models"].gate
    gate((losses, gradient), (losses, gradient))
    with pytest.raises(AssertionError, match=r"loss 0\.6500 at step 3"):
        gate(([0.7, 0.6, 0.65], gradient), (losses, gradient))
    with pytest.raises(AssertionError, match="cosine"):
        gate((losses, torch.tensor([0.0, 1.0])), (losses, gradient))
    with pytest.raises(AssertionError, match="nan"):
        gate(([0.7, math.nan, 0.5], gradient), (losses, gradient))


def test_a_wrong_plan_has_no_time_and_fails_the_part(
    kit: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, part = tmp_path / "sinkhorn.csv", kit["sinkhorn"]
    monkeypatch.setattr(part, "CASES", ((2, 3),))
    monkeypatch.setattr(part, "milliseconds", lambda call, device: 1.0)
    assert part.main(["--device", "cpu", "--out", str(out)]) == 0
    assert [(row["solver"], row["step_ms"]) for row in read(out)] == 2 * [("torch", "1"), ("triton", "1")]
    exact = part.ops.sinkhorn

    def wrong(logits: torch.Tensor, **options: Any) -> torch.Tensor:
        return exact(logits, **options) * (1.0 if logits.dtype == torch.float64 else 1.01)

    monkeypatch.setattr(part.ops, "sinkhorn", wrong)
    assert part.main(["--device", "cpu", "--out", str(out)]) == 1
    assert read(out) == []
    assert "FAILED" in capsys.readouterr().out


def test_a_model_learns_from_generated_rows_and_one_that_does_not_fails_the_part(
    kit: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, part = tmp_path / "training.csv", kit["training"]
    monkeypatch.setattr(part, "TABLES", {"user": 50, "item": 50, "hour": 8, "page": 8})
    small = ["--device", "cpu", "--models", "rankmixer", "--forms", "eager", "--batch", "128", "--out", str(out)]
    assert part.main([*small, "--rows", "6400"]) == 0
    (row,) = read(out)
    assert int(row["rows"]) == 6400
    assert 0.6 < float(row["auc"]) < float(row["best_auc"]) < 0.9
    assert part.main([*small, "--rows", "256"]) == 1
