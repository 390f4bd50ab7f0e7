"""Run benchmarks: inputs, the gate that refuses wrong answers, rounds, rows."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, UnavailableError, Work, setting
from benchmarks.suite.results import OK, Machine, Row, describe_machine, save_rows
from benchmarks.suite.timing import Ceiling, Samples, ceilings, interleave, peak_megabytes, spread
from unimixer.environment import keep_freed_memory
from unimixer.errors import UnimixerError, check_positive, unknown
from unimixer.progress import progress_bar
from unimixer.training.model import pick_device

REPEATS = 7


def run_benchmarks(
    benchmarks: Sequence[Benchmark],
    *,
    cases: str = "small",
    repeats: int = REPEATS,
    threads: int | None = None,
    device: str = "cpu",
    out: Path | None = None,
) -> list[Row]:
    """Run some benchmarks; rows are saved case by case.

    Args:
        benchmarks: entries of the registry.
        cases: ``small``, ``all``, or a pattern of names of cases such as ``*N=256*``.
        repeats: rounds of every case; a slow one stops after three.
        threads: of torch; None leaves its choice.
        device: ``cpu``, ``cuda`` or ``auto``.
        out: folder of the result files; None saves nothing.

    Raises:
        UnimixerError: repeats or threads below 1, a pattern that no case has, a device that is not there.
    """
    check_positive(repeats=repeats)
    keep_freed_memory()  # as in training
    place = pick_device(device)
    chosen = [(benchmark, case) for benchmark in benchmarks for case in select_cases(benchmark, cases)]
    found: list[Row] = []
    with torch_threads(threads), progress_bar("benchmarks", len(chosen), unit="cases") as advance:
        machine = describe_machine(place)
        for benchmark, case in chosen:
            advance(0, f"{benchmark.name} {case.name}")
            rows = list(run_case(benchmark, case, machine, repeats=repeats, device=place))
            if out is not None:
                save_rows(out, benchmark.name, rows)
            found += rows
            advance(1)
    return found


def select_cases(benchmark: Benchmark, pattern: str) -> list[Case]:
    """The cases of a benchmark that are meant by ``small``, ``all``, or a pattern."""
    if pattern == "all":
        return list(benchmark.cases)
    if pattern == "small":
        return [case for case in benchmark.cases if case.small]
    found = [case for case in benchmark.cases if fnmatch.fnmatchcase(case.name, pattern)]
    if not found:
        known = ["small", "all", *(case.name for case in benchmark.cases)]
        raise unknown(f"cases of benchmark {benchmark.name!r}:", pattern, known)
    return found


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Torch with a number of threads, and with its former one afterwards."""
    if threads is None:
        yield
        return
    check_positive(threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_case(
    benchmark: Benchmark, case: Case, machine: Machine, *, repeats: int, device: torch.device
) -> Iterator[Row]:
    """The rows of one case, one an implementation."""

    def row(name: str, status: str) -> Row:
        return Row(benchmark.name, case.name, name, status, threads=torch.get_num_threads(), **asdict(machine))

    if device.type not in benchmark.devices:
        for name in benchmark.implementations:
            yield row(name, f"skipped: measures {' and '.join(benchmark.devices)} only")
        return
    with setting(benchmark, case, device) as place:
        try:
            inputs, work = benchmark.inputs(case, place), benchmark.work(case)
        except (UnimixerError, ImportError, TypeError) as error:  # an older version lacks what the case needs
            for name in benchmark.implementations:
                yield row(name, f"failed: {' '.join(str(error).split())}")
            return
        try:
            passed, refused = prepare_all(benchmark, inputs)
            bounds = ceilings(work, device) if passed else {}
            runs = {name: prepared.run for name, prepared in passed.items()}
            peaks = {name: peak_megabytes(run, device) if benchmark.memory else None for name, run in runs.items()}
            bare = {name: bound.run for name, bound in bounds.items()}
            samples = interleave(runs, bare, repeats=repeats, device=device)
            for name in benchmark.implementations:
                if name in refused:
                    yield row(name, refused[name])
                else:
                    values = measured(name, benchmark.reference, samples, work, bounds)
                    yield Row(**{**asdict(row(name, OK)), **values, "peak_mb": peaks[name]})
        finally:
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()


def measured(
    name: str, reference: str, samples: Samples, work: Work, bounds: dict[str, Ceiling]
) -> dict[str, float | None]:
    """Medians and spreads of one implementation; ratios are taken round by round, before the median."""
    seconds = samples.runs[name]
    typical = median(seconds)
    found: dict[str, float | None] = {
        "repeats": len(seconds),
        "seconds": typical,
        "spread": spread(seconds),
        "speedup": median(r / s for r, s in zip(samples.runs[reference], seconds, strict=True)),
        "gflops": work.flops / typical / 1e9 or None,
        "rows_per_second": work.rows / typical or None,
    }
    for ceiling, bound in bounds.items():
        shares = [ratio * bound.of_case / bound.amount for ratio in samples.ratios(name, ceiling)]
        found[f"{ceiling}_share"], found[f"{ceiling}_share_spread"] = median(shares), spread(shares)
        rate = bound.amount / median(samples.ceilings[name, ceiling]) / 1e9
        if ceiling == "sgemm":
            found["sgemm_gflops"] = rate
        elif ceiling == "bandwidth":
            found["bandwidth_gbytes"] = rate
    return found


FLOOR = 1e-7
"""Difference that is allowed whatever the size of the numbers."""


def prepare_all(benchmark: Benchmark, inputs: object) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Implementations that may be timed, and for every other one the reason why not."""
    passed: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    expected: Mapping[str, Tensor] | None = None
    for name, prepare in benchmark.implementations.items():
        if expected is None and name != benchmark.reference:
            refused[name] = f"not compared: the reference {benchmark.reference!r} gave no results"
            continue
        try:
            prepared = prepare(inputs)
            found = prepared.results()
        except UnavailableError as error:
            refused[name] = f"skipped: {error}"
            continue
        except Exception as error:
            refused[name] = f"failed: {type(error).__name__}: {_line(error)}"
            continue
        wrong = difference(found, found if expected is None else expected, benchmark.tolerance)
        if wrong is not None:
            refused[name] = f"wrong: {wrong}"
            continue
        passed[name] = prepared
        expected = found if expected is None else expected
    return passed, refused


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> str | None:
    """Where two sets of results differ by more than the tolerance, in words; None where they agree.

    Example:
        >>> import torch
        >>> difference({"output": torch.tensor([1.0, 2.1])}, {"output": torch.tensor([1.0, 2.0])}, 1e-3)
        'output differs from the reference by 0.1, more than 0.002'
    """
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        return f"only one of it and the reference has {', '.join(odd)}"
    for name, value in found.items():
        wanted = expected[name]
        if value.shape != wanted.shape:
            return f"{name} has shape {tuple(value.shape)}, the reference {tuple(wanted.shape)}"
        if not value.numel():
            continue
        value, wanted = value.detach().double(), wanted.detach().double()
        if not bool(value.isfinite().all()):
            return f"{name} is not finite"
        worst = float((value - wanted).abs().max())
        allowed = tolerance * float(wanted.abs().max()) + FLOOR
        if not worst <= allowed:
            return f"{name} differs from the reference by {worst:.2g}, more than {allowed:.2g}"
    return None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
