"""The choice of kernels, here; the kernels themselves in processes of their own, see ``kernel_cases.py``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unimixer.errors import MissingExtraError
from unimixer.ops import kernels

HERE = Path(__file__).parent
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'unimixer[gpu]'"
)


def run(*arguments: str, **environment: str) -> str:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "PYTEST_ADDOPTS")
    }
    given = {**inherited, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *arguments], env=given, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_reference_is_the_default_and_triton_is_not_imported_for_it() -> None:
    script = (
        "import sys, torch\nbefore = 'triton' in sys.modules\nfrom unimixer.ops import kernels\n"
        "print(kernels.selected(), kernels.chosen(torch.zeros(2)), ('triton' in sys.modules) == before)"
    )
    assert run("-c", script, UNIMIXER_KERNELS="reference").split() == ["reference", "False", "True"]


def test_a_tensor_on_the_cpu_never_meets_a_kernel_outside_the_interpreter() -> None:
    script = "import torch\nfrom unimixer.ops import kernels\nprint(kernels.selected(), kernels.chosen(torch.zeros(2)))"
    assert run("-c", script, UNIMIXER_KERNELS="triton").split() == ["triton", "False"]


def test_a_missing_triton_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_INSTALLED", False)
    with pytest.raises(MissingExtraError, match=r"pip install 'unimixer\[gpu\]'"):
        kernels.select("triton")
    assert not kernels.available("cuda")
    assert kernels.selected() == "reference"


def interpret(*options: str) -> str:
    cases = str(HERE / "kernel_cases.py")
    return run("-m", "pytest", "-q", "-x", cases, *options, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@NEEDS_TRITON
def test_some_kernels_equal_their_references_in_the_interpreter() -> None:
    assert " passed" in interpret("-k", "3-24-1 or 7-5-2 or 3-24-6-7 or 2-0.1-3 or no_kernel_can")


@NEEDS_TRITON
@pytest.mark.slow
def test_all_kernels_equal_their_references_in_the_interpreter() -> None:
    assert " passed" in interpret()


@NEEDS_TRITON
@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    printed = run(str(HERE / "kernel_builds.py"), TRITON_CACHE_DIR=str(tmp_path))
    assert "scale" in printed


@pytest.mark.gpu
@NEEDS_TRITON
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_kernels_equal_their_references_on_a_gpu() -> None:
    run("-m", "pytest", "-q", "-x", str(HERE / "kernel_cases.py"))
