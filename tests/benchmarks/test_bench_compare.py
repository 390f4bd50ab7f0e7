"""Ratios of two measurements, and when they say something."""

from __future__ import annotations

import math

import pytest
from bench_rows import row

from benchmarks.suite.compare import compare_rounds, compare_rows
from unimixer.errors import UnimixerError


def test_the_interval_of_two_files_follows_from_their_quartiles() -> None:
    (found,) = compare_rows([row(seconds=0.2, spread=0.01, repeats=9)], [row(seconds=0.1, spread=0.0, repeats=9)])
    assert found.ratio == pytest.approx(0.5)
    error = 0.929 * 0.01 / 3 / 0.2
    assert found.low == pytest.approx(0.5 * math.exp(-1.959964 * error))
    assert found.high == pytest.approx(0.5 * math.exp(1.959964 * error))
    assert found.verdict == "faster"


@pytest.mark.parametrize(
    ("seconds", "spread", "verdict"),
    [(0.3, 0.01, "slower"), (0.26, 0.2, "no difference seen"), (0.25, 0.0, "no difference seen")],
)
def test_a_difference_inside_the_interval_is_none(seconds: float, spread: float, verdict: str) -> None:
    (found,) = compare_rows([row(seconds=0.25)], [row(seconds=seconds, spread=spread)])
    assert found.verdict == verdict


def test_rows_without_a_time_say_why() -> None:
    base = [row(), row(case="other", repeats=2)]
    new = [row(status="wrong: by a lot", seconds=None, spread=None), row(case="other"), row(case="only new")]
    first, second = compare_rows(base, new)
    assert (first.ratio, first.verdict) == (None, "new: wrong: by a lot")
    assert (second.ratio, second.verdict) == (1.0, "no interval")


def test_rows_of_other_machines_are_not_compared() -> None:
    with pytest.raises(UnimixerError, match="they were measured with machine a machine and b; threads 1 and 4"):
        compare_rows([row()], [row(machine="b", threads=4)])
    with pytest.raises(UnimixerError, match="they measure different benchmarks or cases"):
        compare_rows([row()], [row(case="other")])
    with pytest.raises(UnimixerError, match="one has no rows"):
        compare_rows([], [row()])


def test_rounds_are_compared_one_by_one() -> None:
    noise = (1.0, 3.0, 0.5)  # what slows a round slows both sides of it
    rounds = [([row(seconds=n)], [row(seconds=1.1 * n)]) for n in noise]
    (found,) = compare_rounds(rounds)
    assert found.ratio == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1)
    assert found.verdict == "slower"
    assert (found.base_seconds, found.new_seconds) == (1.0, pytest.approx(1.1))


def test_the_interval_of_rounds_is_students() -> None:
    ratios = (1.0, 1.2, 1.1)
    (found,) = compare_rounds([([row(seconds=1.0)], [row(seconds=r)]) for r in ratios])
    logs = [math.log(r) for r in ratios]
    mean = sum(logs) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
    assert found.high == pytest.approx(math.exp(mean + 4.302653 * error))
    assert found.verdict == "no difference seen"


def test_one_round_has_no_interval_and_missing_rows_are_named() -> None:
    first, second, third = compare_rounds(
        [([row(), row(case="b", status="failed: x", seconds=None)], [row(), row(case="b"), row(case="c")])]
    )
    assert (first.ratio, first.low, first.verdict) == (1.0, None, "no interval")
    assert second.verdict == "base: failed: x"
    assert third.verdict == "the base has no such row"
