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
    """Run benchmarks and save their rows case by case.

    Args:
        benchmarks: entries of the registry.
        cases: ``small``, ``all``, or a pattern of names of cases such as ``*N=256*``.
        repeats: rounds of every case; a slow case stops after three.
        threads: of torch; None leaves its choice.
        device: ``cpu``, ``cuda`` or ``auto``.
        out: folder of the result files; None saves nothing.

    Raises:
        UnimixerError: repeats or threads below 1, a pattern that no case has, a device that is not there.
    """
    check_positive(repeats=repeats)
    keep_freed_memory()  # as in training
    target = pick_device(device)
    chosen = [(benchmark, case) for benchmark in benchmarks for case in select_cases(benchmark, cases)]
    measured_rows: list[Row] = []
    with torch_threads(threads), progress_bar("benchmarks", len(chosen), unit="cases") as advance:
        machine = describe_machine(target)
        for benchmark, case in chosen:
            advance(0, f"{benchmark.name} {case.name}")
            rows = list(run_case(benchmark, case, machine, repeats=repeats, device=target))
            if out is not None:
                save_rows(out, benchmark.name, rows)
            measured_rows += rows
            advance(1)
    return measured_rows


def select_cases(benchmark: Benchmark, pattern: str) -> list[Case]:
    """Select the cases of a benchmark by ``small``, ``all``, or a pattern."""
    if pattern == "all":
        return list(benchmark.cases)
    if pattern == "small":
        return [case for case in benchmark.cases if case.small]
    matching = [case for case in benchmark.cases if fnmatch.fnmatchcase(case.name, pattern)]
    if not matching:
        known = ["small", "all", *(case.name for case in benchmark.cases)]
        raise unknown(f"cases of benchmark {benchmark.name!r}:", pattern, known)
    return matching


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set the number of torch's threads, and restore it at the end."""
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
    """Measure the rows of one case, one an implementation."""

    def row(name: str, status: str) -> Row:
        return Row(benchmark.name, case.name, name, status, threads=torch.get_num_threads(), **asdict(machine))

    if device.type not in benchmark.devices:
        for name in benchmark.implementations:
            yield row(name, f"skipped: measures {' and '.join(benchmark.devices)} only")
        return
    with setting(benchmark, case, device) as where:
        try:
            inputs, work = benchmark.inputs(case, where), benchmark.work(case)
        except (
            UnimixerError,
            ImportError,
            TypeError,
        ) as error:  # an older version may lack a feature that the case needs
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
                    numbers = measured(name, benchmark.reference, samples, work, bounds)
                    yield Row(**{**asdict(row(name, OK)), **numbers, "peak_mb": peaks[name]})
        finally:
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()


def measured(
    name: str, reference: str, samples: Samples, work: Work, bounds: dict[str, Ceiling]
) -> dict[str, float | None]:
    """Compute medians and spreads of one implementation; ratios are taken round by round, before the median."""
    seconds = samples.runs[name]
    typical = median(seconds)
    values: dict[str, float | None] = {
        "repeats": len(seconds),
        "seconds": typical,
        "spread": spread(seconds),
        "speedup": median(r / s for r, s in zip(samples.runs[reference], seconds, strict=True)),
        "gflops": work.flops / typical / 1e9 or None,
        "rows_per_second": work.rows / typical or None,
    }
    for ceiling, bound in bounds.items():
        shares = [ratio * bound.of_case / bound.amount for ratio in samples.ratios(name, ceiling)]
        values[f"{ceiling}_share"], values[f"{ceiling}_share_spread"] = median(shares), spread(shares)
        rate = bound.amount / median(samples.ceilings[name, ceiling]) / 1e9
        if ceiling == "sgemm":
            values["sgemm_gflops"] = rate
        elif ceiling == "bandwidth":
            values["bandwidth_gbytes"] = rate
    return values


FLOOR = 1e-7
"""Difference that is allowed for numbers of any size."""


def prepare_all(benchmark: Benchmark, inputs: object) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Prepare the implementations that agree with the reference; for every other one give the reason."""
    passed: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    expected: Mapping[str, Tensor] | None = None
    for name, prepare in benchmark.implementations.items():
        if expected is None and name != benchmark.reference:
            refused[name] = f"not compared: the reference {benchmark.reference!r} gave no results"
            continue
        try:
            prepared = prepare(inputs)
            results = prepared.results()
        except UnavailableError as error:
            refused[name] = f"skipped: {error}"
            continue
        except Exception as error:
            refused[name] = f"failed: {type(error).__name__}: {_line(error)}"
            continue
        wrong = difference(results, results if expected is None else expected, benchmark.tolerance)
        if wrong is not None:
            refused[name] = f"wrong: {wrong}"
            continue
        passed[name] = prepared
        expected = results if expected is None else expected
    return passed, refused


def difference(results: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> str | None:
    """Describe where two sets of results differ by more than the tolerance; None if they agree.

    Example:
        >>> import torch
        >>> difference({"output": torch.tensor([1.0, 2.1])}, {"output": torch.tensor([1.0, 2.0])}, 1e-3)
        'output differs from the reference by 0.1, more than 0.002'
    """
    if results.keys() != expected.keys():
        odd = sorted(results.keys() ^ expected.keys())
        return f"only one of it and the reference has {', '.join(odd)}"
    for name, value in results.items():
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
