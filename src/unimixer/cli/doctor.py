"""``unimixer doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import typer

from unimixer.cli.output import Json, emit, table
from unimixer.environment import commit, versions
from unimixer.errors import EXTRAS, UnimixerError, missing_packages
from unimixer.ops import native
from unimixer.training.distributed.checks import check_versions, installed_versions
from unimixer.training.model import compiler


def doctor(
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Also measure the machine's matrix-multiply rate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the versions, the hardware and the installed extras of this machine.

    Example: unimixer doctor
    """
    facts = diagnose(benchmark=benchmark)
    emit(facts, as_json, lambda: table(None, ["what", "found"], [[k, v] for k, v in facts.items()], left=2))


def diagnose(*, benchmark: bool = False) -> dict[str, Any]:
    """Collect versions, hardware, extras and folders; with ``benchmark`` measure the float32 matrix-multiply rate."""
    facts: dict[str, Any] = {f"{name} version": number for name, number in versions().items()}
    facts["commit"] = commit()
    facts["python"] = platform.python_version()
    facts["platform"] = platform.platform()
    facts["cpu cores"] = os.cpu_count()
    facts["torch threads"] = torch.get_num_threads()
    facts["cuda"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    facts["cuda that torch was built for"] = torch.version.cuda or "none: a CPU build"
    facts["nvidia driver"] = driver_version() or "none"
    facts["torch, torchrec, fbgemm"] = describe_triple()
    facts["C++ compiler (torch.compile)"] = compiler() or "none: compile=true cannot work"
    facts["C kernels (ops.native)"] = "built" if native.library() else "none: torch's own operations do their work"
    for extra in EXTRAS:
        missing = missing_packages(extra)
        repair = f"{', '.join(missing)} missing: pip install 'unimixer[{extra}]'"
        facts[f"extra [{extra}]"] = repair if missing else "installed"
    facts["datasets"] = os.environ.get("UNIMIXER_DATASETS", "datasets")
    facts["runs"] = os.environ.get("UNIMIXER_RUNS", "runs")
    free = shutil.disk_usage(".").free
    facts["free disk here"] = f"{free / 2**30:.0f} GiB"
    if benchmark:
        facts["float32 matrix multiply"] = f"{matmul_rate() / 1e9:.0f} GFLOP/s"
    return facts


def describe_triple(installed: Mapping[str, str] | None = None) -> str:
    """Describe the three packages of distributed training, with the command that repairs versions that do not fit.

    Args:
        installed: versions by distribution, instead of those of this environment.
    """
    numbers = installed_versions() if installed is None else installed
    named = ", ".join(f"{name} {number}" for name, number in numbers.items())
    try:
        check_versions(numbers)
    except UnimixerError as error:
        return f"{named}: {error}"
    return f"{named}: they go together"


def driver_version() -> str | None:
    """Read the version of the NVIDIA driver; None on a machine without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def matmul_rate(size: int = 1024, seconds: float = 1.0) -> float:
    """Measure the floating-point operations a second of square float32 matrix products, the best of many."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
