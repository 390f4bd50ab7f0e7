"""Compare two arms from sums: means, ratios of sums and CUPED; intervals fixed or always valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unimixer.abtest.analysis.sequential import Sequential
from unimixer.errors import MissingExtraError, check_choice

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

HOLM, BENJAMINI_HOCHBERG = "holm", "bh"
_COVARIATE = "covariate"
_COPIED = 1e-6
"""Share of its standard error below which a metric is a copy of its covariates, which are then left out."""
_ROUNDING = 1e-12
"""Share that rounding may leave over: of the square of a ratio, or of a mean."""
_UNSURE = 1 / 3
"""Standard error of the logarithm of the ratio of two arms from which it is not close to normal."""


@dataclass(frozen=True)
class Effect:
    """The difference of an arm to the control in one metric.

    Relative values are shares of the control's value, None unless both arms are positive by some standard errors.
    """

    metric: str
    arm: str
    units_control: int
    units: int
    control: float
    treatment: float
    difference: float
    low: float
    high: float
    deviation: float
    """Standard error of the difference."""
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p: float
    p_corrected: float | None = None
    """The p-value corrected for all metrics and arms that decide; None where it does not decide."""
    segment: str = ""
    narrowed: float = 1.0
    """Standard error with covariates as a share of the one without."""


def moments(count: int, means: Mapping[str, float], covariances: Mapping[tuple[str, str], float]) -> Aggregates:
    """Make the aggregates of tea-tasting.

    Args:
        count: number of units.
        means: of every column.
        covariances: of every pair of columns with one degree of freedom less; a column with itself has its variance.
    """
    try:
        from tea_tasting.aggr import Aggregates
    except ImportError:
        raise MissingExtraError("the analysis of an experiment", "abtest") from None
    return Aggregates(
        count_=count,
        mean_=dict(means),
        var_={left: value for (left, right), value in covariances.items() if left == right},
        cov_={pair: value for pair, value in covariances.items() if pair[0] != pair[1]},
    )


def moments_of(columns: Mapping[str, Any]) -> Aggregates:
    """Make the aggregates of columns in memory, one value a unit."""
    names = list(columns)
    values = np.array([np.asarray(columns[name], dtype=np.float64) for name in names])
    covariances = np.atleast_2d(np.cov(values))
    pairs = {(a, b): float(covariances[i, j]) for i, a in enumerate(names) for j, b in enumerate(names) if i <= j}
    return moments(values.shape[1], dict(zip(names, map(float, values.mean(axis=1)), strict=True)), pairs)


def compare(
    control: Aggregates,
    treatment: Aggregates,
    *,
    numerator: str,
    denominator: str | None = None,
    covariates: Sequence[str] = (),
    alpha: float = 0.05,
    one_sided: bool = False,
    sequential: Sequential | None = None,
    metric: str = "",
    arm: str = "",
) -> Effect:
    r"""Compare the mean or the ratio of means of two arms, adjusted for covariates.

    A ratio has the variance of the delta method. CUPED (Deng et al., 2013) subtracts the part that values from before
    the experiment predict; several covariates :math:`x` are first joined into one, :math:`\beta^\top x` with
    :math:`\beta = \Sigma_{xx}^{-1} \sigma_{xy}` over all units of both arms. The standard error shrinks by
    :math:`\sqrt{1 - \rho^2}`, where :math:`\rho` is the correlation of metric and joined covariate.

    Args:
        control: sums of the control, see :func:`moments`.
        treatment: sums of the arm.
        numerator: column of the metric.
        denominator: column that it is divided by; None for a mean over units.
        covariates: columns with values from before the experiment.
        alpha: error level of the interval.
        one_sided: whether each end of the interval is a bound of its own at the level ``alpha``.
        sequential: intervals and p-values that hold at every look; None for one fixed look (Welch's t).
        metric: name in the result.
        arm: name in the result.
    """
    if all(_constant(part, numerator, denominator) for part in (control, treatment)):
        return _point(control, treatment, numerator, denominator, metric, arm)
    before = math.sqrt(sum(_squared_errors(control, treatment, numerator, denominator, None)))
    total, joined = control + treatment, None
    if covariates:
        weights = _weights(total, numerator, denominator, covariates)
        columns = [numerator, *([denominator] if denominator else [])]
        parts = [_joined(part, columns, covariates, weights) for part in (control, treatment, total)]
        left = sum(_squared_errors(parts[0], parts[1], numerator, denominator, _COVARIATE))
        if left > (_COPIED * before) ** 2:
            (control, treatment, total), joined = parts, _COVARIATE
    old, new = (_value(part, total, numerator, denominator, joined) for part in (control, treatment))
    errors = _squared_errors(control, treatment, numerator, denominator, joined)
    counts = int(control.count()), int(treatment.count())
    difference, deviation = new - old, math.sqrt(sum(errors))
    reach = deviation * _multiplier(errors, counts, alpha, one_sided, sequential)
    relative: float | None = None
    relative_ends: tuple[float, float] | tuple[None, None] = (None, None)
    if min(old, new) > 0:  # the logarithm of the ratio has the interval
        shares = errors[0] / old**2, errors[1] / new**2
        spread = math.sqrt(sum(shares))
        if spread < _UNSURE:
            factor = math.exp(spread * _multiplier(shares, counts, alpha, one_sided, sequential))
            relative, relative_ends = new / old - 1, (new / old / factor - 1, new / old * factor - 1)
    return Effect(
        metric=metric,
        arm=arm,
        units_control=counts[0],
        units=counts[1],
        control=old,
        treatment=new,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        deviation=deviation,
        relative=relative,
        relative_low=relative_ends[0],
        relative_high=relative_ends[1],
        p=_p_value(abs(difference) / deviation, errors, counts, sequential),
        narrowed=deviation / before,
    )


def _value(
    part: Aggregates, total: Aggregates, numerator: str, denominator: str | None, covariate: str | None
) -> float:
    """Compute the mean of an arm, less what the joined covariate predicts of its distance to the mean of all."""
    value = part.mean(numerator) / part.mean(denominator)
    return float(value if covariate is None else value - (part.mean(covariate) - total.mean(covariate)))


def _squared_errors(
    control: Aggregates, treatment: Aggregates, numerator: str, denominator: str | None, covariate: str | None
) -> tuple[float, float]:
    """Compute the squared standard errors of both arms; rounding must not leave them below 0."""
    found = []
    for part in (control, treatment):
        variance = part.ratio_var(numerator, denominator)
        if covariate is not None:
            variance += part.var(covariate) - 2 * part.ratio_cov(numerator, denominator, covariate, None)
        found.append(max(0.0, float(variance)) / part.count())
    return found[0], found[1]


def _multiplier(
    errors: tuple[float, float],
    counts: tuple[int, int],
    alpha: float,
    one_sided: bool,
    sequential: Sequential | None,
) -> float:
    """Compute the half width of an interval in standard errors."""
    from scipy.stats import t

    if sequential is not None:
        return sequential.multiplier(sum(counts), alpha, one_sided=one_sided)
    return float(t.isf(alpha if one_sided else alpha / 2, _freedom(errors, counts)))


def _p_value(
    statistic: float, errors: tuple[float, float], counts: tuple[int, int], sequential: Sequential | None
) -> float:
    from scipy.stats import t

    if sequential is not None:
        return sequential.p_value(statistic, sum(counts))
    return float(2 * t.sf(statistic, _freedom(errors, counts)))


def _freedom(errors: tuple[float, float], counts: tuple[int, int]) -> float:
    """Compute the degrees of freedom of Welch and Satterthwaite."""
    shares = (error / sum(errors) for error in errors)  # their squares do not vanish where errors are tiny
    return 1 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True))


def _constant(part: Aggregates, numerator: str, denominator: str | None) -> bool:
    """Return whether a metric does not vary; rounding may leave a little, also below 0."""
    variance = part.ratio_var(numerator, denominator)
    if denominator is None:
        return bool(variance <= (_ROUNDING * part.mean(numerator)) ** 2)
    return bool(variance <= _ROUNDING * (part.mean(numerator) / part.mean(denominator)) ** 2)


def _point(
    control: Aggregates, treatment: Aggregates, numerator: str, denominator: str | None, metric: str, arm: str
) -> Effect:
    """Compare arms in which every unit has the same value: the interval is a point."""
    before, after = (float(part.mean(numerator) / part.mean(denominator)) for part in (control, treatment))
    difference = 0.0 if math.isclose(before, after, rel_tol=_ROUNDING) else after - before
    relative = difference / before if min(before, after) > 0 else None
    return Effect(
        metric=metric,
        arm=arm,
        units_control=int(control.count()),
        units=int(treatment.count()),
        control=before,
        treatment=after,
        difference=difference,
        low=difference,
        high=difference,
        deviation=0.0,
        relative=relative,
        relative_low=relative,
        relative_high=relative,
        p=float(difference == 0),
    )


def corrected(values: Sequence[float], method: str) -> list[float]:
    """Correct p-values for their number.

    Args:
        values: p-values of all metrics and arms that decide.
        method: ``holm`` bounds the chance of any false effect, ``bh`` the expected share of false effects among those
            found (Benjamini and Hochberg).

    Example:
        >>> corrected([0.01, 0.04, 0.03], "holm")
        [0.03, 0.06, 0.06]
        >>> [round(value, 6) for value in corrected([0.01, 0.04, 0.03], "bh")]
        [0.03, 0.04, 0.04]
    """
    from tea_tasting.experiment import ExperimentResult
    from tea_tasting.multiplicity import adjust_fdr, adjust_fwer

    check_choice("correction", method, (HOLM, BENJAMINI_HOCHBERG))
    if not values:
        return []
    results = ExperimentResult({str(index): {"pvalue": value} for index, value in enumerate(values)})
    if method == HOLM:
        found = adjust_fwer(results, arbitrary_dependence=True, method="bonferroni")
    else:
        found = adjust_fdr(results)
    (adjusted,) = found.values()
    return [float(adjusted[str(index)]["pvalue_adj"]) for index in range(len(values))]


def standardized_difference(control: Aggregates, treatment: Aggregates, column: str) -> float:
    r"""Compute the standardized mean difference :math:`(\bar x_t - \bar x_c) / \sqrt{(s_t^2 + s_c^2) / 2}`."""
    spread = math.sqrt((control.var(column) + treatment.var(column)) / 2)
    return float((treatment.mean(column) - control.mean(column)) / spread) if spread else 0.0


def _weights(
    total: Aggregates, numerator: str, denominator: str | None, covariates: Sequence[str]
) -> tuple[float, ...]:
    """Compute the weights of the joined covariate; constants and copies count nothing."""
    within = np.array([[_covariance(total, a, b) for b in covariates] for a in covariates])
    across = np.array([total.ratio_cov(numerator, denominator, name, None) for name in covariates])
    return tuple(map(float, np.linalg.pinv(within, hermitian=True) @ across))


def _joined(
    part: Aggregates, columns: Sequence[str], covariates: Sequence[str], weights: Sequence[float]
) -> Aggregates:
    """Replace the covariates by their weighted sum."""
    pairs = {(a, b): _covariance(part, a, b) for i, a in enumerate(columns) for b in columns[i:]}
    for column in columns:
        pairs[column, _COVARIATE] = sum(
            weight * _covariance(part, column, name) for name, weight in zip(covariates, weights, strict=True)
        )
    pairs[_COVARIATE, _COVARIATE] = sum(
        left * right * _covariance(part, a, b)
        for a, left in zip(covariates, weights, strict=True)
        for b, right in zip(covariates, weights, strict=True)
    )
    means = {column: float(part.mean(column)) for column in columns}
    means[_COVARIATE] = sum(weight * part.mean(name) for name, weight in zip(covariates, weights, strict=True))
    return moments(part.count(), means, pairs)


def _covariance(part: Aggregates, left: str, right: str) -> float:
    return float(part.var(left) if left == right else part.cov(left, right))
