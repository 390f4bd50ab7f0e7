"""``unimixer abtest plan``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.abtest.read import EventsAddress, Specification
from unimixer.cli.output import Json, emit, table, takes

if TYPE_CHECKING:
    from unimixer.abtest.analysis.power import MetricPlan


@dataclass(frozen=True)
class PlanOptions:
    """Options of ``unimixer abtest plan``."""

    specification: Specification
    database: EventsAddress = None
    mean: Annotated[
        float | None, typer.Option("--mean", help="Mean of the metric over units, where there is no database.")
    ] = None
    std: Annotated[float | None, typer.Option("--std", help="Standard deviation of the metric over units.")] = None
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric to plan (default: all of the database, or the first).")
    ] = None
    units_per_day: Annotated[
        float | None, typer.Option("--units-per-day", help="New units of a day (default: those of the database).")
    ] = None
    effect: Annotated[
        float | None, typer.Option("--effect", help="Smallest relative effect that matters, such as 0.02.")
    ] = None
    correlation: Annotated[
        float, typer.Option("--correlation", help="Correlation of the metric with its covariates.")
    ] = 0.0
    as_json: Json = False


@takes(PlanOptions)
def plan(options: PlanOptions) -> None:
    """Print the smallest effect that an experiment can find, and the units and days that an effect needs.

    Means and deviations are those of the units that the database saw before the start, or --mean and --std. Examples:
    unimixer abtest plan spec.yaml --database sqlite:///events.sqlite --effect 0.02 · unimixer abtest plan spec.yaml
    --mean 0.12 --std 0.4 --units-per-day 5000 --effect 0.02
    """
    from unimixer.abtest.analysis.power import baseline, plan_metric, read_baselines
    from unimixer.abtest.specification import load_experiment
    from unimixer.cli.abtest.read import opened
    from unimixer.errors import UnimixerError, unknown

    experiment = load_experiment(Path(options.specification))
    metrics = {metric.name: metric for metric in experiment.metrics}
    if not metrics:
        raise UnimixerError(f"{options.specification}: the experiment has no metrics to plan; add metrics")
    if options.metric is not None and options.metric not in metrics:
        raise unknown("metric", options.metric, metrics)
    if options.database is not None:
        if options.mean is not None or options.std is not None:
            raise UnimixerError("--database and --mean with --std both give the past; give one of them")
        with opened(options.database) as events:
            past, units_per_day = read_baselines(experiment, events)
        past = past if options.metric is None else {options.metric: past[options.metric]}
        units_per_day = units_per_day if options.units_per_day is None else options.units_per_day
    else:
        if options.mean is None or options.std is None or options.units_per_day is None:
            raise UnimixerError("without --database a plan needs --mean, --std and --units-per-day; give all three")
        name = options.metric or next(iter(metrics))
        past, units_per_day = {name: baseline(options.mean, options.std)}, options.units_per_day
    plans = [
        plan_metric(
            experiment,
            metrics[name],
            sums,
            units_per_day=units_per_day,
            effect=options.effect,
            correlation=options.correlation,
        )
        for name, sums in past.items()
    ]
    values = {"experiment": experiment.name, "units_per_day": units_per_day, "metrics": [asdict(one) for one in plans]}
    emit(values, options.as_json, lambda: _show(plans, experiment.name, units_per_day))


def _show(plans: list[MetricPlan], name: str, units_per_day: float) -> None:
    columns = ["metric", "mean", "deviation", "units at the end", "detectable effect", "effect", "units", "days"]
    rows = []
    for one in plans:
        asked = ["", "", ""]
        if one.effect is not None and one.units_needed is not None:
            asked = [f"{one.effect:.2%}", f"{one.units_needed:,}", f"{one.days_needed:,}"]
        rows.append(
            [one.metric, f"{one.mean:.4g}", f"{one.deviation:.4g}", f"{one.units:,}", f"{one.detectable:.2%}", *asked]
        )
    table(f"{name}: found with a chance of 80%, at {units_per_day:,.0f} units a day", columns, rows)
