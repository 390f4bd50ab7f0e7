"""Changes of a specification under way: those that spoil the experiment are refused, one sentence each."""

from __future__ import annotations

from typing import Any

import pytest
from experiments import experiment, microseconds

from unimixer.abtest.changes import check_change
from unimixer.errors import UnimixerError

BEFORE, UNDER_WAY, AFTER = (microseconds(day) for day in ("2026-02-01", "2026-03-10", "2026-04-10"))
OLD = experiment(traffic=0.5)


def refused(now: int, **changes: Any) -> str:
    with pytest.raises(UnimixerError) as found:
        check_change(OLD, experiment(**{"version": 2, "traffic": 0.5, **changes}), now=now)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms": {"old": {"weight": 2}, "new": {"bundle": "bundles/new"}}}, "arms changed while it runs"),
        ({"arms": {"old": {}, "new": {"bundle": "bundles/newer"}}}, "arms changed while it runs"),
        ({"arms": {"old": {}, "new": {"bundle": "bundles/new"}, "third": {}}}, "arms changed while it runs"),
        ({"salt": "other"}, "salt changed while it runs, which would assign every unit anew"),
        ({"unit": "session"}, "unit changed while it runs"),
        ({"control": "new"}, "control changed while it runs"),
        ({"start": "2026-03-05"}, "start changed while it runs"),
        ({"end": "2026-03-20"}, "end=2026-03-20 is before 2026-03-31 while it runs"),
        ({"end": "2026-03-05"}, "end=2026-03-05 is before 2026-03-31"),
        ({"traffic": 0.4}, "traffic=0.4 is below 0.5 while it runs"),
        ({"metrics": []}, "metrics changed while it runs, which would choose metrics after the first results"),
        ({"segments": ["tab"]}, "segments changed"),
        ({"targeting": {"tab": [1]}}, "targeting changed"),
        ({"holdout": 0.1}, "holdout changed"),
        ({"reading": "sequential"}, "reading changed"),
        ({"alpha": 0.1}, "alpha changed"),
        (
            {"version": 1, "description": "new"},
            "version 1 differs from the registered version 1; give the change version 2",
        ),
    ],
)
def test_a_running_experiment_refuses(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(UNDER_WAY, **changes)


def test_a_running_experiment_takes_more_traffic_a_later_end_overrides_and_words() -> None:
    new = experiment(version=2, traffic=1.0, end="2026-04-30", overrides={"7": "new"}, description="longer")
    check_change(OLD, new, now=UNDER_WAY)
    check_change(new, new, now=UNDER_WAY)


def test_before_the_start_everything_may_change_but_not_into_the_past() -> None:
    check_change(OLD, experiment(version=2, salt="other", start="2026-02-10", metrics=[]), now=BEFORE)
    assert "start=2026-01-10 is in the past; choose 2026-02-01" in refused(BEFORE, start="2026-01-10")
    assert "end=2026-01-20 is in the past" in refused(BEFORE, start="2026-01-10", end="2026-01-20")


def test_an_experiment_that_ended_takes_no_change() -> None:
    assert "it ended on 2026-03-31, so nothing may change" in refused(AFTER, end="2026-05-01")
