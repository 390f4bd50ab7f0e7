"""Plan an experiment before it starts: smallest effect that it can find, units and days that an effect needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unimixer.abtest.analysis.sequential import Sequential
from unimixer.abtest.analysis.statistics import moments
from unimixer.abtest.analysis.units import DENOMINATOR, NUMERATOR, UnitTable
from unimixer.abtest.events import Events
from unimixer.abtest.specification import DAY_US, Experiment, Metric
from unimixer.errors import UnimixerError

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

POWER = 0.8
"""Chance of finding an effect of the planned size."""


@dataclass(frozen=True)
class MetricPlan:
    """What an experiment can find in one metric, in the arm with the fewest units."""

    metric: str
    mean: float
    deviation: float
    """Standard deviation over units, after the covariates; of a ratio that of the delta method."""
    units: int
    """Units of the control and the arm at the end."""
    detectable: float
    """Smallest relative effect that is found with the chance :data:`POWER`."""
    effect: float | None
    """Relative effect asked about."""
    units_needed: int | None
    """Units of the control and the arm that find it."""
    days_needed: int | None


def baseline(mean: float, deviation: float) -> Aggregates:
    """Make a baseline from the mean and the standard deviation of a metric over units."""
    if not 0 < mean < math.inf or not 0 < deviation < math.inf:
        raise UnimixerError(
            f"--mean {mean:g} and --std {deviation:g} must be greater than 0 and finite; take them from past units"
        )
    return moments(2, {NUMERATOR: mean}, {(NUMERATOR, NUMERATOR): deviation**2})


def read_baselines(experiment: Experiment, events: Events) -> tuple[dict[str, Aggregates], float]:
    """Read the metrics of the units that were active before the start, for as long as the experiment will take.

    Returns:
        Sums by metric, and the number of units a day: new ones of a window as long as the experiment.
    """
    length = experiment.end_us - experiment.start_us
    with events.snapshot() as database, UnitTable(database, experiment, experiment.start_us, before=length) as table:
        sums = {metric.name: found for metric in experiment.metrics for found in table.sums(metric).values()}
        units = sum(table.units().values())
    missing = next((metric.name for metric in experiment.metrics if metric.name not in sums), None)
    if missing is not None:
        raise UnimixerError(
            f"{events.name}: no unit has outcomes for metric {missing!r} in the {length // DAY_US} days before "
            f"{experiment.start}; load past outcomes, or give --mean and --std"
        )
    return sums, units * DAY_US / length


def plan_metric(
    experiment: Experiment,
    metric: Metric,
    past: Aggregates,
    *,
    units_per_day: float,
    effect: float | None = None,
    correlation: float = 0.0,
) -> MetricPlan:
    r"""Plan one metric.

    Every arm is compared with the control at the level that the first step of Holm leaves it, :math:`\alpha / m` for
    :math:`m` deciding metrics and arms; a guardrail at :math:`\alpha`, one-sided. A sequential reading that ends at
    :math:`n` units needs :math:`((k_n + z_\beta) / (z_{\alpha/2} + z_\beta))^2` times the units of a fixed one, where
    :math:`k_n` is the half width of its interval in standard errors.

    Args:
        experiment: the specification.
        metric: of the experiment.
        past: sums of the metric over past units.
        units_per_day: past units of a day, before traffic and holdout.
        effect: relative effect to find.
        correlation: of the metric with its covariates; 0 without.
    """
    from tea_tasting.metrics import RatioOfMeans

    for name, value in (("--units-per-day", units_per_day), ("--effect", effect)):
        if value is not None and not math.isfinite(value):
            raise UnimixerError(f"{name} {value:g} must be a finite number")
    if not -1 < correlation < 1:
        raise UnimixerError(f"--correlation {correlation:g} must lie between -1 and 1")
    if effect == 0:
        raise UnimixerError("--effect 0 needs endless units; give the smallest relative effect that matters")
    mean, deviation = _mean_and_deviation(metric, past, correlation)
    if mean <= 0 or deviation <= 0:
        raise UnimixerError(
            f"metric {metric.name!r} has mean {mean:g} and standard deviation {deviation:g} in the past, so no "
            "relative effect can be planned; both must be greater than 0"
        )
    shares = _shares(experiment)
    if len(shares) < 2:
        raise UnimixerError(f"experiment {experiment.name!r} has no arm but the control that answers; add one to plan")
    smallest = min(shares, key=shares.__getitem__)
    ratio = shares[smallest] / shares[experiment.control] if smallest != experiment.control else 1.0
    deciding = sum(not one.guardrail for one in experiment.metrics) * (len(shares) - 1)
    level = experiment.alpha if metric.guardrail else experiment.alpha / max(deciding, 1)
    days = (experiment.end_us - experiment.start_us) / DAY_US
    a_day = units_per_day * experiment.traffic * (1 - experiment.holdout)
    a_day *= shares[smallest] + (shares[experiment.control] if smallest != experiment.control else max(shares.values()))
    units = int(a_day * days)
    if units < 4:
        raise UnimixerError(
            f"{units_per_day:g} units a day give {units} units in {days:g} days; nothing can be planned"
        )
    sample = moments(units, {NUMERATOR: mean}, {(NUMERATOR, NUMERATOR): deviation**2})
    inflation = _inflation(experiment, level, one_sided=metric.guardrail)
    solver = RatioOfMeans(
        NUMERATOR,
        alpha=2 * level if metric.guardrail else level,
        power=POWER,
        ratio=ratio,
        use_t=False,
        rel_effect_size=None if effect is None else abs(effect),
    )
    detectable = solver.solve_power_from_aggregates(sample, "rel_effect_size")[0].rel_effect_size
    needed = None
    if effect is not None:
        needed = _units_needed(solver.solve_power_from_aggregates(sample, "n_obs")[0].n_obs, inflation)
    return MetricPlan(
        metric=metric.name,
        mean=mean,
        deviation=deviation,
        units=units,
        detectable=float(detectable) * inflation(units),
        effect=effect,
        units_needed=needed,
        days_needed=None if needed is None else math.ceil(needed / a_day),
    )


def _inflation(experiment: Experiment, level: float, *, one_sided: bool) -> Callable[[int], float]:
    """Return how much larger an effect a reading that ends at a number of units needs than a fixed one."""
    from scipy.stats import norm

    if experiment.reading == "fixed":
        return lambda units: 1.0
    sequential = Sequential(experiment.planned_units, experiment.alpha)
    fixed, beta = float(norm.isf(level if one_sided else level / 2)), float(norm.ppf(POWER))
    return lambda units: (sequential.multiplier(units, level, one_sided=one_sided) + beta) / (fixed + beta)


def _units_needed(fixed: float, inflation: Callable[[int], float]) -> int:
    """Return the smallest number of units that is the one of a fixed reading times the square of its inflation."""
    enough, few = 1, 0
    while enough < fixed * inflation(enough) ** 2:
        enough, few = 2 * enough, enough
    while enough - few > 1:
        middle = (enough + few) // 2
        enough, few = (middle, few) if middle >= fixed * inflation(middle) ** 2 else (enough, middle)
    return enough


def _shares(experiment: Experiment) -> dict[str, float]:
    weights = experiment.weights
    total = sum(weights.values())
    return {arm: weight / total for arm, weight in weights.items()}


def _mean_and_deviation(metric: Metric, past: Aggregates, correlation: float) -> tuple[float, float]:
    # of a ratio that is given as a number, the mean and the deviation are those of the ratio itself
    denominator = DENOMINATOR if metric.kind == "ratio" and DENOMINATOR in past.mean_ else None
    if not past.mean(denominator) > 0:
        raise UnimixerError(
            f"metric {metric.name!r}: no unit has an outcome {metric.denominator!r} in the past; load past outcomes, "
            "or give --mean and --std"
        )
    mean = past.mean(NUMERATOR) / past.mean(denominator)
    return float(mean), math.sqrt(past.ratio_var(NUMERATOR, denominator) * (1 - correlation**2))
