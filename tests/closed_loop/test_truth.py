"""True effects: the metrics of a reading, over the whole population."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unimixer.abtest.specification import DAY_US, Experiment, Metric
from unimixer.closed_loop.sessions import Visits
from unimixer.closed_loop.truth import metric_values, true_effects, value
from unimixer.errors import UnimixerError

START_MS = 1_738_195_200_000  # 2025-01-30
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def experiment(*metrics: dict[str, Any]) -> Experiment:
    return Experiment(name="truth", arms={"a": {}, "b": {}}, start="2025-01-30", end="2025-02-09", metrics=metrics)  # type: ignore[arg-type]


def visits(rows: list[tuple[int, int, list[int]]]) -> Visits:
    """Make sessions of two items: user, milliseconds after the start, clicks."""
    users, after, clicks = zip(*rows, strict=True)
    n = len(rows)
    return Visits(
        day=torch.tensor(after) // DAY_MS,
        user=torch.tensor(users),
        number=torch.zeros(n, dtype=torch.int64),
        time=START_MS + torch.tensor(after),
        items=torch.arange(2).expand(n, 2),
        clicks=torch.tensor(clicks).bool(),
        likes=torch.zeros(n, 2).bool(),
        similarity=torch.zeros(n),
        satisfaction=torch.zeros(n),
        context={},
    )


SEEN = visits(
    [
        (0, 0, [1, 1]),
        (0, DAY_MS - HOUR_MS, [0, 0]),  # day 0 of the user
        (0, DAY_MS, [1, 0]),  # day 1
        (0, 3 * DAY_MS, [0, 0]),  # day 3
        (2, 5 * DAY_MS, [0, 1]),
        (2, 6 * DAY_MS, [0, 0]),  # day 1
    ]
)
END = experiment().end_us


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"kind": "mean", "event": "click"}, [3, 1]),
        ({"kind": "mean", "event": "impression"}, [8, 4]),
        ({"kind": "mean", "event": "click", "window_days": 1}, [2, 1]),
        ({"kind": "active-days", "event": "visit", "window_days": 3}, [2, 1]),
        ({"kind": "active-days", "event": "visit", "window_days": 2}, [1, 1]),
        ({"kind": "active-days", "event": "visit", "window_days": 5}, [2]),  # user 2 is too young
        ({"kind": "retention", "event": "visit", "day": 3}, [1, 0]),
        ({"kind": "retention", "event": "visit", "day": 1}, [1, 1]),
    ],
)
def test_a_metric_counts_what_a_reading_counts(metric: dict[str, Any], expected: list[float]) -> None:
    one = experiment({"name": "m", **metric})
    assert metric_values(SEEN, one.metrics[0], one.metrics[0].event, one, END).tolist() == expected


def test_a_ratio_is_a_ratio_of_sums() -> None:
    metric = Metric(name="ctr", kind="ratio", event="click", denominator="impression")
    assert value(SEEN, metric, experiment(), END) == pytest.approx(4 / 12)


def test_events_after_the_reading_do_not_count() -> None:
    metric = Metric(name="clicks", kind="mean", event="click")
    assert metric_values(SEEN, metric, "click", experiment(), experiment().start_us + DAY_US).tolist() == [2]


def test_an_effect_is_the_difference_to_the_control() -> None:
    more = visits([(0, 0, [1, 1]), (2, DAY_MS, [1, 1])])
    (effect,) = true_effects({"a": SEEN, "b": more}, experiment({"name": "m", "kind": "mean", "event": "click"}), END)
    assert (effect.metric, effect.arm, effect.control_value, effect.arm_value) == ("m", "b", 2.0, 2.0)
    assert (effect.difference, effect.relative) == (0.0, 0.0)


def test_an_event_that_no_user_has_is_refused() -> None:
    metric = Metric(name="m", kind="mean", event="purchase")
    with pytest.raises(UnimixerError, match="purchase"):
        value(SEEN, metric, experiment(), END)


def test_users_without_visits_do_not_count() -> None:
    metric = Metric(name="clicks", kind="mean", event="click")
    assert np.mean(metric_values(SEEN, metric, "click", experiment(), END)) == 2.0  # user 1 was never there
