"""Break the events of a simulated experiment on purpose, one fault a function, so that the checks can be tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from unimixer.abtest.specification import DAY_US, Experiment
from unimixer.closed_loop.event_rows import EventRows
from unimixer.closed_loop.rankers import hashed_uniform

Break = Callable[[EventRows, Experiment], EventRows]
BOTS, BOT_REQUESTS = 20, 2_000
"""Number of bots, and of the requests of each."""


def broken(rows: EventRows, experiment: Experiment, names: tuple[str, ...]) -> EventRows:
    """Return the rows with some faults, in the order of their names."""
    for name in names:
        rows = BREAKS[name](rows, experiment)
    return rows


def skewed_split(rows: EventRows, experiment: Experiment) -> EventRows:
    """Lose a fifth of the units of the last arm, as a redirect that fails for some browsers does."""
    lost = _units(rows, experiment, 0.2, arm=_last(experiment))
    kept = ~pl.col("unit").is_in(lost)
    return EventRows(rows.exposures.filter(kept), rows.outcomes.filter(kept), rows.covariates.filter(kept))


def bots(rows: EventRows, experiment: Experiment) -> EventRows:
    """Let :data:`BOTS` units ask :data:`BOT_REQUESTS` times within an hour and click on everything."""
    units = _units(rows, experiment, 1.0)[:BOTS]
    first = (
        rows.exposures.filter(pl.col("unit").is_in(units)).sort("time").group_by("unit", maintain_order=True).first()
    )
    number = pl.DataFrame({"number": np.arange(1, BOT_REQUESTS + 1)})
    asked = first.join(number, how="cross").with_columns(
        (pl.col("time") + pl.col("number") * 1_500_000).alias("time"),
        (pl.col("request_id") + "-bot-" + pl.col("number").cast(pl.String)).alias("request_id"),
    )
    exposures = asked.select(rows.exposures.columns)
    outcomes = [
        asked.select(
            (pl.col("request_id") + f"-{event}").alias("event_id"),
            "unit",
            pl.lit(event).alias("event"),
            pl.lit(value).alias("value"),
            "time",
            (pl.col("time") + 1_000_000).alias("received"),
            "request_id",
            pl.lit(None, dtype=pl.String).alias("item"),
        )
        for event, value in (("visit", 1.0), ("impression", 5.0), ("click", 5.0))
    ]
    return replace(
        rows, exposures=pl.concat([rows.exposures, exposures]), outcomes=pl.concat([rows.outcomes, *outcomes])
    )


def lost_events(rows: EventRows, experiment: Experiment) -> EventRows:
    """Lose all outcomes of a fifth of the units of the last arm."""
    lost = _units(rows, experiment, 0.2, arm=_last(experiment))
    return replace(rows, outcomes=rows.outcomes.filter(~pl.col("unit").is_in(lost)))


def two_arms(rows: EventRows, experiment: Experiment) -> EventRows:
    """Serve the requests of a twentieth of the units by turns from two arms, as a cache of answers does."""
    first, last, units = experiment.control, _last(experiment), _units(rows, experiment, 0.05)
    turn = pl.int_range(pl.len()).over("unit") % 2
    other = pl.when(pl.col("arm") == first).then(pl.lit(last)).otherwise(pl.lit(first))
    switched = pl.when(pl.col("unit").is_in(units) & (turn == 1)).then(other).otherwise(pl.col("arm"))
    return replace(rows, exposures=rows.exposures.sort("time").with_columns(switched.alias("arm")))


def future_clocks(rows: EventRows, experiment: Experiment) -> EventRows:
    """Date the outcomes of a fiftieth of the units a year ahead of their arrival."""
    units = _units(rows, experiment, 0.02)
    return _moved(rows, pl.col("unit").is_in(units), 365 * DAY_US)


def early_outcomes(rows: EventRows, experiment: Experiment) -> EventRows:
    """Date the outcomes of a twentieth of the units an hour before the requests that they follow."""
    units = _units(rows, experiment, 0.05)
    return _moved(rows, pl.col("unit").is_in(units), -3_600_000_000)


BREAKS: dict[str, Break] = {
    "skewed-split": skewed_split,
    "bots": bots,
    "lost-events": lost_events,
    "two-arms": two_arms,
    "future-clocks": future_clocks,
    "early-outcomes": early_outcomes,
}
"""Faults by name."""


def _moved(rows: EventRows, where: pl.Expr, by: int) -> EventRows:
    time = pl.when(where).then(pl.col("time") + by).otherwise(pl.col("time"))
    return replace(rows, outcomes=rows.outcomes.with_columns(time.alias("time")))


def _last(experiment: Experiment) -> str:
    return [name for name, arm in experiment.arms.items() if not arm.shadow][-1]


def _units(rows: EventRows, experiment: Experiment, share: float, arm: str | None = None) -> list[str]:
    """Return a share of the units, chosen by their numbers, of one arm or of all."""
    chosen = rows.exposures if arm is None else rows.exposures.filter(pl.col("arm") == arm)
    units = chosen["unit"].unique().sort()
    uniform = hashed_uniform(len(experiment.name), units.cast(pl.Int64).to_torch()).numpy()
    return units.filter(pl.Series(uniform < share)).to_list()
