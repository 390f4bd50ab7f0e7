"""Compute true effects: all users under one arm against the same users, with the same luck, under another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unimixer.abtest.specification import DAY_US, Experiment, Metric
from unimixer.closed_loop.event_rows import Happenings
from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.metrics import auc, uauc

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrueEffect:
    """A metric of the whole population under the control and under another arm."""

    metric: str
    arm: str
    control_value: float
    arm_value: float

    @property
    def difference(self) -> float:
        """The effect."""
        return self.arm_value - self.control_value

    @property
    def relative(self) -> float:
        """The effect relative to the control."""
        return self.difference / self.control_value if self.control_value else float("nan")


@dataclass(frozen=True)
class ArmFacts:
    """What the population saw and did under one arm: the cause of an effect."""

    arm: str
    ranker: str
    auc: float
    """Of clicks, on all candidates of the first day: a sample that no ranker chose."""
    uauc: float
    click_rate: float
    likes_per_click: float
    similarity: float
    """Mean cosine of two items shown together."""
    satisfaction: float
    """Mean of the lists, in standard deviations of lists drawn at random."""
    sessions: float
    """A user."""
    active: tuple[int, ...]
    """Users with a visit, by day of the experiment."""


def true_effects(visits: Mapping[str, Visits], experiment: Experiment, as_of: int) -> list[TrueEffect]:
    """Compare all arms with the control on every metric.

    Args:
        visits: of the whole population during the experiment, by arm.
        experiment: its metrics have the meaning that a reading gives them.
        as_of: end of the events, in microseconds since 1970.
    """
    effects = []
    for metric in experiment.metrics:
        values = {arm: value(of_arm, metric, experiment, as_of) for arm, of_arm in visits.items()}
        control = values[experiment.control]
        effects += [
            TrueEffect(metric.name, arm, control, value) for arm, value in values.items() if arm != experiment.control
        ]
    return effects


def metric_values(visits: Visits, metric: Metric, event: str, experiment: Experiment, as_of: int) -> Floats:
    """Return the sums of an event for every user who is old enough for the metric."""
    first = first_exposures(visits)
    found = Happenings.of(visits, event)
    user = visits.user.numpy()[found.row]
    day = (found.time - first[user]) // DAY_US
    until = first[user] + (metric.window_days or 0) * DAY_US if metric.window_days else experiment.end_us
    if metric.kind == "retention":
        counted = day == metric.day
    elif metric.kind == "active-days":
        counted = (day >= 1) & (day <= metric.window_days)
    else:
        counted = found.time < until
    counted &= found.time < as_of
    sums = np.zeros(len(first))
    if metric.kind in ("retention", "active-days"):
        pairs = np.unique(np.stack([user[counted], day[counted]]), axis=1)
        np.add.at(sums, pairs[0], 1.0)
    else:
        np.add.at(sums, user[counted], found.value)
    days = metric.day if metric.kind == "retention" else metric.window_days
    horizon = ((days or 0) + (metric.kind in ("retention", "active-days"))) * DAY_US
    return sums[first <= as_of - horizon]


def first_exposures(visits: Visits) -> NDArray[np.int64]:
    """Return the first time of every user in microseconds, a time far ahead for users without visits."""
    first = np.full(int(visits.user.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, visits.user.numpy(), visits.time.numpy() * 1_000)
    return first


def arm_facts(arm: str, name: str, scores: Tensor, sessions: Sessions, visits: Visits, users: int) -> ArmFacts:
    """Describe an arm.

    Args:
        arm: its name.
        name: of its ranker.
        scores: that it gives to the candidates of the sessions.
        sessions: of the first day, with all their candidates.
        visits: of the whole population under it.
        users: in the population.
    """
    logits = scores.flatten().double().numpy()
    labels = (sessions.luck < sessions.chance[..., 0]).flatten().numpy()
    keys = sessions.user.repeat_interleave(sessions.candidates.shape[1]).numpy()
    clicks, likes = visits.clicks.sum(), visits.likes.sum()
    return ArmFacts(
        arm=arm,
        ranker=name,
        auc=auc(logits, labels),
        uauc=uauc(logits, labels, keys),
        click_rate=float(visits.clicks.double().mean()),
        likes_per_click=float(likes / clicks) if clicks else float("nan"),
        similarity=float(visits.similarity.double().mean()),
        satisfaction=float(visits.satisfaction.double().mean()),
        sessions=len(visits) / users,
        active=tuple(len(set(visits.user[visits.day == day].tolist())) for day in range(int(visits.day.max()) + 1)),
    )


def value(visits: Visits, metric: Metric, experiment: Experiment, as_of: int) -> float:
    """Return a metric of the whole population."""
    above = metric_values(visits, metric, metric.event, experiment, as_of)
    if metric.denominator is None:
        return float(above.mean()) if len(above) else float("nan")
    below = metric_values(visits, metric, metric.denominator, experiment, as_of).sum()
    return float(above.sum() / below) if below else float("nan")
