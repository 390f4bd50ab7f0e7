"""The gate: a wrong implementation gets no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, UnavailableError, differentiable
from benchmarks.suite.results import Row
from benchmarks.suite.run import difference, run_benchmarks


class WrongGradient(torch.autograd.Function):
    """The square with half its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0]


def unavailable(x: Tensor) -> Tensor:
    raise UnavailableError("needs a bigger machine")


def broken(x: Tensor) -> Tensor:
    raise RuntimeError("boom\nand more")


FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "product": lambda x: x * x,
    "wrong": lambda x: x.square() + 1e-2,
    "wrong gradient": lambda x: WrongGradient.apply(x),
    "not finite": lambda x: x / 0,
    "flat": lambda x: x.square().flatten(),
    "unavailable": unavailable,
    "broken": broken,
}


def squares(*names: str) -> Benchmark:
    def inputs(case: Case, setting: Setting) -> Tensor:
        return setting.normal(case["rows"], 3)

    def prepare(name: str) -> Callable[[Tensor], Prepared]:
        return lambda x: differentiable(FUNCTIONS[name], x)

    return Benchmark("squares", "a square", inputs, {name: prepare(name) for name in names}, [Case.of(rows=4)])


def rows_of(*names: str) -> dict[str, Row]:
    return {row.implementation: row for row in run_benchmarks([squares(*names)], repeats=3)}


def test_only_what_agrees_with_the_reference_is_timed() -> None:
    rows = rows_of(*FUNCTIONS)
    timed = {name for name, row in rows.items() if row.seconds is not None}
    assert timed == {"square", "product"} == {name for name, row in rows.items() if row.status == "ok"}
    assert (
        rows["wrong"].status
        == "wrong: output differs from the reference by 0.01, more than " + (rows["wrong"].status.rpartition(" ")[2])
    )
    assert rows["wrong gradient"].status.startswith("wrong: gradient 0 differs from the reference by")
    assert rows["not finite"].status == "wrong: output is not finite"
    assert rows["flat"].status == "wrong: output has shape (12,), the reference (4, 3)"
    assert rows["unavailable"].status == "skipped: needs a bigger machine"
    assert rows["broken"].status == "failed: RuntimeError: boom and more"


@pytest.mark.parametrize("reference", ["broken", "unavailable", "not finite"])
def test_without_a_reference_nothing_is_timed(reference: str) -> None:
    rows = rows_of(reference, "square")
    assert rows["square"].status == f"not compared: the reference {reference!r} gave no results"
    assert all(row.seconds is None and row.peak_mb is None for row in rows.values())


def test_tolerance_is_relative_to_the_largest_number() -> None:
    large, small = torch.tensor([1000.0, 0.0]), torch.tensor([1.0, 0.0])
    off = torch.tensor([0.0, 0.05])
    assert difference({"x": large + off}, {"x": large}, 1e-4) is None
    assert (
        difference({"x": small + off}, {"x": small}, 1e-4) == "x differs from the reference by 0.05, more than 0.0001"
    )
    assert difference({"x": torch.zeros(2)}, {"x": torch.zeros(2)}, 1e-4) is None
    assert difference({"x": large, "y": large}, {"x": large}, 1e-4) == "only one of it and the reference has y"
    assert difference({"x": torch.empty(0)}, {"x": torch.empty(0)}, 1e-4) is None


def test_equal_cases_get_equal_inputs() -> None:
    seen: list[Tensor] = []

    def inputs(case: Case, setting: Setting) -> Tensor:
        seen.append(setting.normal(2, 2))
        return seen[-1]

    one = Benchmark(
        "one", "", inputs, {"square": lambda x: differentiable(torch.square, x)}, [Case.of(n=1), Case.of(n=2)]
    )
    run_benchmarks([one], repeats=1)
    run_benchmarks([one], repeats=1)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
