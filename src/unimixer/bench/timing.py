"""Times that survive a busy machine: every run next to its ceilings, again and again, and medians of what they gave."""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

SHORTEST = 0.005
"""Seconds that one sample takes at least; faster runs are repeated inside it."""
LONGEST = 12.0
"""Seconds after which a case stops, once it has :data:`FEWEST` rounds."""
FEWEST = 3

Run = Callable[[], object]


@dataclass
class Samples:
    """Seconds of every round."""

    runs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ceilings: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By run and ceiling: the ceiling measured right after that run."""

    def ratios(self, run: str, ceiling: str) -> list[float]:
        """Time of the ceiling over that of the run, pair by pair."""
        return [c / r for c, r in zip(self.ceilings[run, ceiling], self.runs[run], strict=True)]


def interleave(
    runs: Mapping[str, Run],
    ceilings: Mapping[str, Run],
    *,
    repeats: int,
    device: torch.device,
    longest: float = LONGEST,
    shortest: float = SHORTEST,
) -> Samples:
    """Time all runs by turns, each followed by the ceilings: what slows the machine hits both.

    Args:
        runs: what is measured.
        ceilings: what it is compared with.
        repeats: rounds.
        device: waited for at the end of a sample.
        longest: seconds after which no new round begins, once there are three.
        shortest: seconds of a sample.
    """
    loops = {name: _loops(run, device, shortest) for name, run in (*runs.items(), *ceilings.items())}
    samples, begin = Samples(), time.perf_counter()
    with _quiet():
        for number in range(repeats):
            if number >= FEWEST and time.perf_counter() - begin > longest:
                break
            for name, run in runs.items():
                samples.runs[name].append(_sample(run, loops[name], device))
                for ceiling, bare in ceilings.items():
                    samples.ceilings[name, ceiling].append(_sample(bare, loops[ceiling], device))
    return samples


def _loops(run: Run, device: torch.device, shortest: float) -> int:
    _sample(run, 1, device)
    return max(1, min(10_000, round(shortest / max(_sample(run, 1, device), 1e-9))))


def _sample(run: Run, loops: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(loops):
        run()
    _wait(device)
    return (time.perf_counter() - start) / loops


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Collect garbage before the samples and not inside them."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles; 0 of a single value.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
        2.0
    """
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def peak_megabytes(run: Run, device: torch.device) -> float | None:
    """Memory that one run takes at its peak beyond what was taken before it; None where the system cannot say.

    On a CPU it is resident memory, whose peak Linux counts and can forget; on a GPU what torch's allocator gave.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    with suppress(OSError, AttributeError):
        _return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        resident = _status("VmRSS")
        run()
        return max(0.0, (_status("VmHWM") - resident) / 1024)
    return None


def _return_freed_memory() -> None:
    """What earlier runs freed and the C library kept would otherwise be taken again unseen."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    """A line of ``/proc/self/status``, in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AttributeError(name)
