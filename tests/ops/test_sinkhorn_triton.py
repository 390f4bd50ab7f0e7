"""The choice of the kernel, here; the kernel itself in processes of its own, see ``sinkhorn_triton_cases.py``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import own_process
import pytest
import torch

from unimixer.ops.sinkhorn import triton

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


def test_a_tensor_on_the_cpu_never_meets_the_kernel_nor_imports_it() -> None:
    script = (
        "import sys, torch\nfrom unimixer import ops\n"
        "from unimixer.ops.sinkhorn.triton import supports\nops.sinkhorn(torch.zeros(2, 2))\n"
        "print(supports(torch.zeros(2, 2)), 'unimixer.ops.sinkhorn.triton_kernel' in sys.modules)"
    )
    with own_process.script(script) as plain:
        assert plain.communicate(60)[0].split() == ["False", "False"]
    with own_process.script(script, env=own_process.environment(TRITON_INTERPRET="1")) as interpreting:
        assert interpreting.communicate(60)[0].split() == ["False", "False"]


def test_a_gpu_without_triton_or_too_old_for_it_has_the_solver_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGPU:
        is_cuda, dtype, shape, device = True, torch.float32, (2, 8, 8), "cuda:0"

    for installed, capability, supported in ((True, (9, 0), True), (True, (7, 5), False), (False, (9, 0), False)):
        monkeypatch.setattr(triton, "_INSTALLED", installed)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert triton.supports(OnGPU()) is supported  # type: ignore[arg-type]


@NEEDS_TRITON
@pytest.mark.slow
def test_the_kernel_equals_its_reference_in_the_interpreter() -> None:
    pytest_ = ("-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:schemathesis")  # whose import takes seconds
    cases = str(HERE / "sinkhorn_triton_cases.py")
    assert " passed" in run(*pytest_, cases, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@NEEDS_TRITON
@pytest.mark.slow
def test_the_kernel_compiles_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    printed = run(str(HERE / "sinkhorn_triton_builds.py"), TRITON_CACHE_DIR=str(tmp_path))
    assert "scale" in printed


@pytest.mark.gpu
@NEEDS_TRITON
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_the_kernel_equals_its_reference_on_a_gpu() -> None:
    run("-m", "pytest", "-q", "-x", "--noconftest", str(HERE / "sinkhorn_triton_cases.py"))
