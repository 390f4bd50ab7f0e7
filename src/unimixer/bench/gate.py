"""The gate: no time is reported for a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unimixer.bench.base import Benchmark, Prepared, UnavailableError

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
