"""Time runs on a busy machine: measure each run next to its ceilings, round after round, and take medians."""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.suite.base import Product, Work

SHORTEST = 0.005
"""Shortest time of a sample in seconds; faster runs are repeated inside it."""
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
    """Time all runs by turns, each followed by the ceilings, so that a slow moment of the machine hits both.

    Args:
        runs: measured functions.
        ceilings: functions to compare them with.
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
    """Compute the distance of the quartiles; 0 of a single value.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
        2.0
    """
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def peak_megabytes(run: Run, device: torch.device) -> float | None:
    """Measure the peak memory of one run above that before it; None if the system cannot say.

    On a CPU it is resident memory, whose peak Linux counts and can reset; on a GPU the memory of torch's allocator.
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
    """Return memory that earlier runs freed and the C library kept: a run would reuse it unseen."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    """Read a line of ``/proc/self/status``, in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AttributeError(name)


COPY_NUMBERS = 32 * 2**20
"""Numbers in the tensor that is copied: 128 MB, beyond any cache."""


class Ceiling(NamedTuple):
    """Do one kind of work and nothing else."""

    run: Callable[[], object]
    amount: float
    """FLOPs or bytes of one run; for the case's own products, 1 run."""
    of_case: float
    """The same of one run of the case. The share of the ceiling is the ratio of the two rates."""


def ceilings(work: Work, device: torch.device) -> dict[str, Ceiling]:
    """Make the ceilings that the work of a case can be compared with.

    ``sgemm``: one large float32 product, for the FLOPs. ``products``: the batched products of the case alone, forward
    and backward, into memory that is there already. ``bandwidth``: a copy of a large tensor, for the bytes.
    """
    bounds: dict[str, Ceiling] = {}
    if work.flops:
        size = sgemm_size(device)
        bounds["sgemm"] = Ceiling(sgemm(size, device), 2.0 * size**3, work.flops)
    if work.products:
        bounds["products"] = Ceiling(bare_products(work.products, device), 1.0, 1.0)
    if work.num_bytes:
        bounds["bandwidth"] = Ceiling(copy(device), 8.0 * COPY_NUMBERS, work.num_bytes)
    return bounds


def sgemm_size(device: torch.device) -> int:
    """Choose a product large enough to keep the machine busy and small enough to be repeated often."""
    if device.type != "cpu":
        return 8192
    return 1024 if torch.get_num_threads() <= 4 else 4096


def sgemm(size: int, device: torch.device) -> Callable[[], object]:
    """Make one square product."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty(size, size, device=device)
    return lambda: torch.mm(a, b, out=out)


def copy(device: torch.device) -> Callable[[], object]:
    """Make one copy, which reads and writes every byte once."""
    source, target = torch.zeros(COPY_NUMBERS, device=device), torch.zeros(COPY_NUMBERS, device=device)
    return lambda: target.copy_(source)


def bare_products(products: Sequence[Product], device: torch.device) -> Callable[[], object]:
    r"""Make forward and backward of products :math:`Y = X W` without anything between them.

    .. math:: Y = X W, \qquad \partial X = \partial Y\, W^T, \qquad \partial W = X^T\, \partial Y
    """
    triples = []
    for groups, rows, inner, columns in products:
        x = torch.randn(groups, rows, inner, device=device)
        weight = torch.randn(groups, inner, columns, device=device)
        y = torch.randn(groups, rows, columns, device=device)
        triples.append((x, weight, y, torch.empty_like(y), torch.empty_like(x), torch.empty_like(weight)))

    def run() -> None:
        for x, weight, y, to_y, to_x, to_weight in triples:
            torch.bmm(x, weight, out=to_y)
            torch.bmm(y, weight.mT, out=to_x)
            torch.bmm(x.mT, y, out=to_weight)

    return run
