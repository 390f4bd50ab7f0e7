"""Describe and configure the process and its machine: versions, commit, processor, freed memory, the caller's state."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

_PACKAGES = ("unimixer", "torch", "numpy", "pyarrow", "polars", "safetensors")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_TENSOR = 2**30
"""Tensors up to 1 GB come from the heap."""
_KEPT = 2**31 - 1
"""Free bytes at the end of the heap that are not returned to the system; mallopt takes an int."""


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that numbers depend on."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed | {"torch": str(torch.__version__)}  # not every build's metadata tells which build it is


def torchrec_command(release: str = torch.__version__) -> str:
    """Return the command that installs TorchRec for a release of torch.

    No extra brings TorchRec, because it asks for the CUDA build of fbgemm.
    """
    return f"pip install --no-deps torchrec==1.{int(release.split('.')[1]) - 5}.0"


def commit() -> str | None:
    """Return the commit of the source tree that this package is imported from, with ``+changes`` if it was edited."""
    here = Path(__file__).resolve().parent
    try:
        head = _git("rev-parse", "HEAD", cwd=here)
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no", cwd=here) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str, cwd: Path) -> str:
    # without its lock: a run that is killed in this moment would leave it, and the repository could not be committed to
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def cpu_model() -> str:
    """Return the processor's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Count the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Tell whether bfloat16 products of a per-token layer take at most two thirds of the time of float32 ones.

    Processors with AVX512-BF16 or AMX take about half; others have to convert, and lose. The best of several
    alternating products counts, a few milliseconds each, so that a busy machine gives the same answer. A CUDA device is
    asked and not measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    weights, tokens = torch.ones(8, 128, 64), torch.ones(8, 64, 512)
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(10):
        for dtype in best:
            left, right = weights.to(dtype), tokens.to(dtype)
            start = time.perf_counter()
            torch.bmm(left, right)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.bfloat16] <= best[torch.float32] * 2 / 3


@cache
def keep_freed_memory() -> bool:
    """Tell the C library, once a process, to keep the memory that is freed; return whether it does.

    glibc maps every tensor over 32 MB anew and unmaps it when it is freed, so that each use begins with zeroed pages:
    up to 40% of a step with large activations, eager or compiled (docs/performance.md). With this setting a process
    holds the most that it ever needed. On other systems, and with ``UNIMIXER_KEEP_MEMORY=0``, nothing happens.
    """
    if sys.platform != "linux" or os.environ.get("UNIMIXER_KEEP_MEMORY", "1") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_TENSOR)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


@contextmanager
def states_kept() -> Iterator[None]:
    """Restore the states of ``random``, numpy and torch, torch's threads and the warning filters at the end.

    A run draws from generators of its own seed. Without this, a caller that draws after a run, such as a random
    search, would draw the same numbers after every run. Also a decorator.

    Example:
        >>> @states_kept()
        ... def reseeds() -> None:
        ...     random.seed(0)
        >>> before = random.getstate()
        >>> reseeds()
        >>> random.getstate() == before
        True
    """
    python, legacy, cpu, seed = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        if cuda is None:
            torch.cuda.manual_seed_all(seed)  # what the generators of CUDA begin with when CUDA is first used
        else:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_rng_state(cpu)
        torch.set_num_threads(threads)
