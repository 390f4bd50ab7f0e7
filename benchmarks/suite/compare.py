"""Compare two measurements: the ratio of their times and its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import stats

from benchmarks.suite.results import OK, Row
from unimixer.errors import UnimixerError

CONFIDENCE = 0.95
MEDIAN_ERROR = 0.929
"""Standard error of a median over IQR / sqrt(n), for normal samples: 1.2533 / 1.349."""


@dataclass(frozen=True)
class Comparison:
    """Relate the new time to that of the base; a ratio below 1 is faster."""

    benchmark: str
    case: str
    implementation: str
    base_seconds: float | None
    new_seconds: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    """``faster``, ``slower``, ``no difference seen``, ``no interval``, or why there is no ratio."""


def compare_rows(base: Sequence[Row], new: Sequence[Row]) -> list[Comparison]:
    r"""Compare the rows of two result files that measure the same on the same machine.

    The interval follows from medians, quartiles and rounds of both: the standard error of a median is taken as
    :math:`0.93\, \mathrm{IQR} / \sqrt n`, and that of the logarithm of the ratio from both.

    Raises:
        UnimixerError: if no row of one has a counterpart in the other.
    """
    known = {row.measured_at: row for row in base}
    pairs = [(known[row.measured_at], row) for row in new if row.measured_at in known]
    if not pairs:
        raise UnimixerError(f"no row of the one has a counterpart in the other: {_why_none(base, new)}")
    return [_of_files(old, row) for old, row in pairs]


def _why_none(base: Sequence[Row], new: Sequence[Row]) -> str:
    if not base or not new:
        return "one has no rows"
    alike = [(a, b) for a in base for b in new if a.subject == b.subject]
    if not alike:
        return "they measure different benchmarks or cases"
    first, second = alike[0]
    names = ("machine", "cores", "threads", "device")
    odd = [
        f"{n} {getattr(first, n)} and {getattr(second, n)}" for n in names if getattr(first, n) != getattr(second, n)
    ]
    return f"they were measured with {'; '.join(odd)}"


def _of_files(base: Row, new: Row) -> Comparison:
    comparison = _blank(base, new)
    if comparison.verdict:
        return comparison
    assert base.seconds
    assert new.seconds
    ratio = new.seconds / base.seconds
    if min(base.repeats, new.repeats) < 3:
        return replace(comparison, ratio=ratio, verdict="no interval")
    error = math.hypot(_relative_error(base), _relative_error(new))
    return _judged(comparison, ratio, _quantile() * error)


def _relative_error(row: Row) -> float:
    assert row.seconds
    return MEDIAN_ERROR * (row.spread or 0.0) / math.sqrt(row.repeats) / row.seconds


def compare_rounds(rounds: Sequence[tuple[Sequence[Row], Sequence[Row]]]) -> list[Comparison]:
    """Average the ratio over rounds that measured base and new by turns, with Student's interval on its logarithm.

    Args:
        rounds: rows of the base and of the new one, round by round.
    """
    comparisons = []
    for new in rounds[0][1]:
        pairs = [
            (old, row)
            for base_rows, new_rows in rounds
            for old in base_rows
            for row in new_rows
            if old.subject == row.subject == new.subject
        ]
        if not pairs:
            comparisons.append(
                Comparison(*new.subject, None, new.seconds, None, None, None, "the base has no such row")
            )
            continue
        failed = next((_blank(*pair) for pair in pairs if _blank(*pair).verdict), None)
        if failed is not None:
            comparisons.append(failed)
            continue
        base_times = [old.seconds for old, _ in pairs if old.seconds]
        new_times = [row.seconds for _, row in pairs if row.seconds]
        logs = [math.log(n / b) for b, n in zip(base_times, new_times, strict=True)]
        typical = statistics.median(base_times), statistics.median(new_times)
        middle = Comparison(*new.subject, *typical, None, None, None, "")
        ratio = math.exp(statistics.mean(logs))
        if len(logs) < 2:
            comparisons.append(replace(middle, ratio=ratio, verdict="no interval"))
            continue
        error = statistics.stdev(logs) / math.sqrt(len(logs))
        comparisons.append(_judged(middle, ratio, _quantile(len(logs) - 1) * error))
    return comparisons


def _blank(base: Row, new: Row) -> Comparison:
    """Make a comparison without a ratio; its verdict says why there can be none, and is empty otherwise."""
    verdict = ""
    for name, row in (("base", base), ("new", new)):
        if row.status != OK or not row.seconds:
            verdict = verdict or f"{name}: {row.status}"
    return Comparison(*new.subject, base.seconds, new.seconds, None, None, None, verdict)


def _judged(comparison: Comparison, ratio: float, margin: float) -> Comparison:
    low, high = ratio * math.exp(-margin), ratio * math.exp(margin)
    verdict = "faster" if high < 1 else "slower" if low > 1 else "no difference seen"
    return replace(comparison, ratio=ratio, low=low, high=high, verdict=verdict)


def _quantile(freedom: int | None = None) -> float:
    """Return the quantile of Student's distribution, or of the normal one, for a two-sided interval."""
    upper = (1 + CONFIDENCE) / 2
    return float(stats.norm.ppf(upper) if freedom is None else stats.t.ppf(upper, freedom))
