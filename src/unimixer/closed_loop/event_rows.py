"""Turn simulated visits into the rows of the event tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.abtest.assignment import Assignment
from unimixer.abtest.events import Events
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.abtest.specification import Experiment
from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.errors import check_choice

COVARIATES = ("active_days_before", "clicks_before", "impressions_before")
"""Values of a user from the days before the experiment."""
BATCH = 50_000
"""Rows of one write."""
RECEIVED_US = 3_000_000
"""Microseconds between an event and its arrival."""
SECOND_MS = 1_000
"""Time that a user takes for one item."""
EVENTS = ("visit", "impression", "click", "like")
Row = TypeVar("Row")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class EventRows:
    """Rows of the event tables as frames with their columns."""

    exposures: pl.DataFrame
    outcomes: pl.DataFrame
    covariates: pl.DataFrame

    @classmethod
    def only(cls, covariates: pl.DataFrame) -> EventRows:
        """Return covariates alone, where a server has written the rest."""
        return cls(pl.DataFrame(), pl.DataFrame(), covariates)

    def write(self, events: Events, experiment: Experiment) -> None:
        """Register the experiment before its start and add the rows."""
        events.register(experiment, now=experiment.start_us - 1)
        _add(events.add_covariates, self.covariates, Covariate)
        _add(events.add_exposures, self.exposures, Exposure)
        _add(events.add_outcomes, self.outcomes, Outcome)


def exposure_rows(
    visits: Visits, experiment: Experiment, assignments: Sequence[Assignment], bundles: dict[str, str]
) -> pl.DataFrame:
    """Return one exposure a session.

    Args:
        visits: of units that take part.
        experiment: its name, version and segments.
        assignments: of all users, by number.
        bundles: version of the ranker of every arm.
    """
    users = visits.user.tolist()
    arms = [str(assignments[user].arm) for user in users]
    context = {name: visits.context[name].tolist() for name in experiment.segments if name in visits.context}
    rows = zip(*context.values(), strict=True) if context else ((),) * len(users)
    return pl.DataFrame(
        {
            "experiment": [experiment.name] * len(users),
            "version": [experiment.version] * len(users),
            "unit": [str(user) for user in users],
            "arm": arms,
            "time": (visits.time * 1_000).numpy(),
            "request_id": request_ids(visits, experiment),
            "bundle": [bundles[arm] for arm in arms],
            "propensity": [assignments[user].propensity for user in users],
            "shadow": [0] * len(users),
            "positions": [json.dumps([str(item) for item in items]) for items in visits.items.tolist()],
            "context": [json.dumps(dict(zip(context, row, strict=True))) for row in rows],
        }
    )


@dataclass(frozen=True)
class Happenings:
    """All outcomes of one event: the row of their session, and the position of the item for events of an item."""

    row: Ints
    position: Ints | None
    time: Ints
    """Microseconds since 1970."""
    value: float

    @classmethod
    def of(cls, visits: Visits, event: str) -> Happenings:
        """Find the outcomes: visits, impressions (their number is the value), clicks, or likes.

        Raises:
            UnimixerError: the simulation has no such event.
        """
        check_choice("event", event, EVENTS)
        if event in ("visit", "impression"):
            value = 1.0 if event == "visit" else float(visits.items.shape[1])
            return cls(np.arange(len(visits)), None, visits.time.numpy() * 1_000, value)
        happened = visits.clicks if event == "click" else visits.likes
        row, position = (part.numpy() for part in happened.nonzero(as_tuple=True))
        return cls(row, position, (visits.time.numpy()[row] + SECOND_MS * (position + 1)) * 1_000, 1.0)


def outcome_rows(visits: Visits, experiment: Experiment) -> pl.DataFrame:
    """Return the outcomes of sessions: a visit, the number of impressions, and every click and like."""
    ids = np.asarray(request_ids(visits, experiment), dtype=object)
    return pl.concat([_outcomes(visits, ids, event) for event in EVENTS])


def covariate_rows(before: Visits | None, experiment: Experiment, users: Sequence[int]) -> pl.DataFrame:
    """Return what users did before the experiment; no rows without such days."""
    names = [name for name in COVARIATES if name in experiment.covariates]
    if before is None or not names:
        return pl.DataFrame(schema={"experiment": pl.String, "unit": pl.String, "name": pl.String, "value": pl.Float64})
    sums = pl.DataFrame(
        {
            "user": before.user.numpy(),
            "day": before.day.numpy(),
            "clicks_before": before.clicks.sum(1).numpy(),
            "impressions_before": np.full(len(before), before.items.shape[1]),
        }
    )
    totals = sums.group_by("user").agg(
        pl.col("day").n_unique().alias("active_days_before"), pl.col("clicks_before", "impressions_before").sum()
    )
    everyone = pl.DataFrame({"user": users}).join(totals, on="user", how="left").fill_null(0).sort("user")
    return pl.concat(
        [
            everyone.select(
                pl.lit(experiment.name).alias("experiment"),
                pl.col("user").cast(pl.String).alias("unit"),
                pl.lit(name).alias("name"),
                pl.col(name).cast(pl.Float64).alias("value"),
            )
            for name in names
        ]
    )


def request_ids(visits: Visits | Sessions, experiment: Experiment) -> list[str]:
    """Return the ids of the requests of sessions, which no two sessions of a database share."""
    days = visits.day.tolist() if isinstance(visits, Visits) else [visits.day] * len(visits)
    columns = zip(days, visits.user.tolist(), visits.number.tolist(), strict=True)
    return [f"{experiment.name}-day-{day}-user-{user}-session-{number}" for day, user, number in columns]


def _outcomes(visits: Visits, ids: NDArray[np.object_], event: str) -> pl.DataFrame:
    found = Happenings.of(visits, event)
    taken, numbers = ids[found.row].tolist(), [""] * len(found.row)
    item: list[str | None] = [None] * len(taken)
    if found.position is not None:
        numbers = [f"-{position}" for position in found.position.tolist()]
        item = [str(one) for one in visits.items.numpy()[found.row, found.position].tolist()]
    return pl.DataFrame(
        {
            "event_id": [f"{one}-{event}{number}" for one, number in zip(taken, numbers, strict=True)],
            "unit": [str(user) for user in visits.user.numpy()[found.row].tolist()],
            "event": [event] * len(taken),
            "value": np.full(len(taken), found.value),
            "time": found.time,
            "received": found.time + RECEIVED_US,
            "request_id": pl.Series(taken, dtype=pl.String),
            "item": pl.Series(item, dtype=pl.String),
        }
    )


def _add(add: Callable[[list[Row]], int], frame: pl.DataFrame, kind: Callable[..., Row]) -> None:
    for rows in _batches(frame.iter_rows()):
        add([kind(*row) for row in rows])


def _batches(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    batch: list[tuple[object, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
