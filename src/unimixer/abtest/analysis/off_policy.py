"""Estimate the value of a policy that was not served from the log of one that was: IPS, SNIPS, doubly robust."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError

Values = NDArray[np.float64]
LEAST_EFFECTIVE = 100.0
"""Effective sample size below which the normal interval is not given."""


@dataclass(frozen=True)
class Estimate:
    """The mean reward of the target policy by one estimator, with its interval."""

    estimator: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OffPolicy:
    """Estimates, and how far the log supports them."""

    rows: int
    effective_sample_size: float
    """(sum of weights)^2 / sum of squared weights of the units (Kish 1965), summed over its rows: as many
    units of the target policy itself tell as much. Without units, every row is one."""
    overlap: float
    """Mean weight: about 1 where the log covers all that the target does, less where it never tried some of it."""
    overlap_low: float
    overlap_high: float
    largest_weight: float
    estimates: tuple[Estimate, ...]


def off_policy(
    rewards: Any,
    propensities: Any,
    targets: Any,
    *,
    predicted: Any = None,
    predicted_target: Any = None,
    units: Any = None,
    alpha: float = 0.05,
) -> OffPolicy:
    r"""Estimate the mean reward that a target policy would have had.

    With weights :math:`w_i = \pi(a_i \mid x_i) / p_i`:

    .. math::
        \mathrm{IPS} = \frac1n \sum_i w_i r_i, \qquad
        \mathrm{SNIPS} = \frac{\sum_i w_i r_i}{\sum_i w_i}, \qquad
        \mathrm{DR} = \frac1n \sum_i \hat q(x_i, \pi) + w_i \, (r_i - \hat q(x_i, a_i))

    Horvitz and Thompson (1952); Swaminathan and Joachims (NIPS 2015); Dudik, Langford and Li (ICML 2011). Intervals are
    normal, with the sandwich variance over units; that of SNIPS is the delta method's.

    Args:
        rewards: of the logged actions.
        propensities: probability of each logged action under the policy that was served.
        targets: probability of the same action under the target policy.
        predicted: reward of the logged action by a model, for the doubly robust estimate.
        predicted_target: mean predicted reward under the target policy.
        units: id of the unit of each row; rows of one unit are not independent (default: every row is its own).
        alpha: error level of the intervals.

    Raises:
        UnimixerError: if a propensity is missing, zero or no probability, or the log supports no estimate.
    """
    reward, weight = _columns(rewards, propensities, targets)
    if (predicted is None) != (predicted_target is None):
        raise UnimixerError("a doubly robust estimate needs both predicted and predicted_target; give both or neither")
    total = float(weight.sum())
    if total == 0:
        raise UnimixerError("the target policy never takes a logged action: the log says nothing about it")
    groups = None if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    if groups is not None and groups.shape != weight.shape:
        raise UnimixerError(f"units has shape {groups.shape}, expected one value for each of {weight.size:,} rows")
    by_unit = weight if groups is None else np.bincount(groups, weights=weight)
    size = total**2 / float((by_unit**2).sum())
    if size < LEAST_EFFECTIVE:
        counted = f"{len(by_unit):,} {'rows' if groups is None else 'units'}"
        raise UnimixerError(
            f"the effective sample size is {size:.1f} of {counted}, expected at least {LEAST_EFFECTIVE:g}: "
            "the target policy is too far from the logged one; log more or choose a closer policy"
        )
    if not 0 < alpha < 1:
        raise UnimixerError(f"alpha={alpha} must lie between 0 and 1")
    reach = _quantile(alpha)
    mean = total / len(weight)
    overlap = _estimate("overlap", mean, weight - mean, groups, reach)
    ips, snips = float((weight * reward).mean()), float((weight * reward).sum()) / total
    estimates = [
        _estimate("IPS", ips, weight * reward - ips, groups, reach),
        _estimate("SNIPS", snips, weight * (reward - snips) / mean, groups, reach),
    ]
    if predicted is not None:
        logged, target = _finite("predicted", predicted, reward), _finite("predicted_target", predicted_target, reward)
        terms = target + weight * (reward - logged)
        value = float(terms.mean())
        estimates.append(_estimate("doubly robust", value, terms - value, groups, reach))
    largest = float(weight.max())
    return OffPolicy(len(weight), size, mean, overlap.low, overlap.high, largest, tuple(estimates))


def _columns(rewards: Any, propensities: Any, targets: Any) -> tuple[Values, Values]:
    """Check the logged columns and return rewards and weights."""
    reward = np.asarray(rewards, dtype=np.float64)
    if not reward.size:
        raise UnimixerError("no rows: an off-policy estimate needs logged actions with their propensities")
    reward = _finite("rewards", reward, reward)
    propensity = np.asarray(propensities, dtype=np.float64)
    missing = int(np.isnan(propensity).sum())
    if missing:
        raise UnimixerError(
            f"{missing:,} of {len(propensity):,} rows have no propensity; an estimate needs, for every logged action, "
            "the probability with which the policy chose it"
        )
    wrong = int(((propensity <= 0) | (propensity > 1)).sum())
    if wrong:
        first = float(propensity[(propensity <= 0) | (propensity > 1)][0])
        raise UnimixerError(
            f"{wrong:,} of {len(propensity):,} propensities are not above 0 and at most 1 (the first is {first:g}); an "
            "action that was logged had a positive probability, so the log is wrong"
        )
    target = _finite("targets", targets, reward)
    if ((target < 0) | (target > 1)).any():
        raise UnimixerError("targets are probabilities of the target policy and lie between 0 and 1")
    return reward, target / _finite("propensities", propensity, reward)


def _finite(name: str, values: Any, like: Values) -> Values:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != like.shape or column.ndim != 1:
        raise UnimixerError(f"{name} has shape {column.shape}, expected one value for each of {like.size:,} rows")
    if not np.isfinite(column).all():
        raise UnimixerError(f"{name} has {int((~np.isfinite(column)).sum()):,} values that are not finite numbers")
    return column


def _estimate(name: str, value: float, deviations: Values, groups: Any, reach: float) -> Estimate:
    """Make the interval from the influence of each row; rows of one unit are summed first."""
    sums = deviations if groups is None else np.bincount(groups, weights=deviations)
    if len(sums) < 2:
        raise UnimixerError("an interval needs at least 2 units")
    error = math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)) / len(deviations)
    return Estimate(name, value, value - reach * error, value + reach * error)


def _quantile(alpha: float) -> float:
    from scipy.stats import norm

    return float(norm.isf(alpha / 2))
