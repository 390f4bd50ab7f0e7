"""Compare models at equal size: the ratio of their errors over the sizes that both cover, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import integrate, stats

from unimixer.analysis.bootstrap import LEVEL
from unimixer.analysis.curve_fit import Array
from unimixer.analysis.series import Series
from unimixer.analysis.significance import holm_where_known
from unimixer.analysis.units import GAIN

AHEAD, BEHIND, UNDECIDED = "ahead", "behind", "level"
EXACT = 1e-12
"""What logarithms differ by that are equal but for rounding."""


@dataclass(frozen=True)
class SizeRatio:
    """The error (or gain) of a model divided by that of another of equal size.

    Args:
        model: label of the one.
        other: label of the other.
        smallest: smallest size that both cover.
        largest: largest size that both cover.
        ratio: geometric mean over these sizes and over seeds.
        at_smallest: the ratio there.
        at_largest: the ratio there.
        seeds: seeds that both were trained with at every size.
        low: lower end of the interval over seeds, if there are two or more.
        high: upper end.
        p: two-sided, of a t-test of the logarithm over seeds.
        holm: p corrected for all pairs.
        slope: exponent e of the ratio as a law of the size, ratio ~ size^e: above or below 0 the curves part or cross.
        slope_low: lower end of its interval over seeds.
        slope_high: upper end.
        slope_p: two-sided, of a t-test of the exponent over seeds.
        slope_holm: the same corrected for all pairs.
        form: ``gain`` or ``error``.
    """

    model: str
    other: str
    smallest: float
    largest: float
    ratio: float
    at_smallest: float
    at_largest: float
    seeds: int
    form: str
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None
    slope: float = 0.0
    slope_low: float | None = None
    slope_high: float | None = None
    slope_p: float | None = None
    slope_holm: float | None = None

    @property
    def conclusion(self) -> str:
        """The conclusion: ahead or behind if the corrected p is below 0.05, else level."""
        if self.holm is None or self.holm >= 1 - LEVEL:
            return UNDECIDED
        return AHEAD if (self.ratio > 1) == (self.form == GAIN) else BEHIND


def compare_at_equal_size(series: Mapping[str, Series], form: str) -> list[SizeRatio]:
    r"""Compare every pair of models whose sizes overlap, corrected together after Holm (1979).

    The logarithm of the error of each seed is a curve of straight lines over the logarithm of the size. With
    :math:`\ell_{m,s}(u)` the curve of model :math:`m` and seed :math:`s`, and :math:`[u_0, u_1]` the sizes that both
    models cover,

    .. math:: r_s = \frac{1}{u_1 - u_0} \int_{u_0}^{u_1} \bigl(\ell_{1,s}(u) - \ell_{2,s}(u)\bigr)\, du,

    and the interval is Student's over :math:`r_s`, paired by seed. The exponent of the ratio is the slope of
    :math:`\ell_{1,s} - \ell_{2,s}` over :math:`u` by least squares, with an interval of the same kind: what bends both
    curves alike cancels in it, and not in the difference of two fitted exponents. Each interval holds other seeds, not
    other test rows, which all runs share. A model of which some run has no seed is one curve, the mean of the runs of
    each size, without interval.

    Args:
        series: runs by model.
        form: ``gain`` or ``error``.
    """
    pairs = [pair for one, two in combinations(series.values(), 2) if (pair := _ratio(one, two, form)) is not None]
    corrected = (holm_where_known([pair.p for pair in pairs]), holm_where_known([pair.slope_p for pair in pairs]))
    return [replace(pair, holm=p, slope_holm=slope) for pair, p, slope in zip(pairs, *corrected, strict=True)]


def _ratio(one: Series, two: Series, form: str) -> SizeRatio | None:
    low, high = max(one.x.min(), two.x.min()), min(one.x.max(), two.x.max())
    if low >= high:
        return None
    knots = np.concatenate([one.x, two.x, [low, high]])
    sizes = np.log(np.unique(knots.clip(low, high)))
    seeds = sorted(_seeds(one) & _seeds(two))
    logs = np.array([_curve(one, seed, sizes) - _curve(two, seed, sizes) for seed in (seeds or (None,))])
    by_seed = integrate.trapezoid(logs, sizes, axis=1) / (sizes[-1] - sizes[0])
    estimate, (slopes, _) = by_seed.mean(), np.polyfit(sizes - sizes.mean(), logs.T, 1)
    at_smallest, *_, at_largest = np.exp(logs.mean(axis=0)).tolist()
    pair = SizeRatio(
        model=one.model,
        other=two.model,
        smallest=float(low),
        largest=float(high),
        ratio=float(np.exp(estimate)),
        at_smallest=at_smallest,
        at_largest=at_largest,
        seeds=len(seeds),
        form=form,
        slope=float(slopes.mean()),
    )
    if len(seeds) < 2:
        return pair
    (low, high, p), (slope_low, slope_high, slope_p) = _over_seeds(by_seed), _over_seeds(slopes)
    pair = replace(pair, low=float(np.exp(low)), high=float(np.exp(high)), p=p)
    return replace(pair, slope_low=slope_low, slope_high=slope_high, slope_p=slope_p)


def _over_seeds(values: Array) -> tuple[float, float, float]:
    """Return Student's interval of a mean over seeds, and its two-sided p."""
    estimate, freedom = float(values.mean()), len(values) - 1
    deviation = float(values.std(ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * deviation
    if deviation < EXACT:
        return estimate, estimate, float(abs(estimate) < EXACT)
    p = float(2 * stats.t.sf(abs(estimate) / deviation, freedom))
    return estimate - reach, estimate + reach, p


def _seeds(series: Series) -> set[int]:
    """Return the seeds that were trained at every size, none if a run has no seed."""
    by_size: list[set[int | None]] = [set() for _ in range(series.sizes)]
    for size, point in zip(series.size, series.points, strict=True):
        by_size[size].add(point.seed)
    return {seed for seed in set.intersection(*by_size) if seed is not None}


def _curve(series: Series, seed: int | None, sizes: Array) -> Array:
    """Return the logarithm of the error of a seed, or of the mean over all runs of a size, at some sizes."""
    chosen = np.array([seed is None or point.seed == seed for point in series.points])
    number = series.size[chosen]
    counts = np.maximum(np.bincount(number), 1)
    y, x = (np.bincount(number, np.log(values[chosen])) / counts for values in (series.y, series.x))
    curve: Array = np.interp(sizes, x, y)
    return curve
