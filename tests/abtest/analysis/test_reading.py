"""A reading: sums of the database equal those of the rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abtest_cases import HOUR, database, experiment, simulate

from unimixer.abtest.analysis.reading import Reading, read_experiment
from unimixer.abtest.analysis.statistics import Effect, compare, moments_of
from unimixer.abtest.events import Events
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.abtest.specification import DAY_US, Experiment

METRICS = [
    {"name": "ctr", "kind": "ratio", "event": "click", "denominator": "view"},
    {"name": "longs", "kind": "mean", "event": "long"},
    {"name": "longs-3", "kind": "mean", "event": "long", "window_days": 3},
    {"name": "days", "kind": "active-days", "event": "view", "window_days": 5},
    {"name": "back", "kind": "retention", "event": "view", "day": 2},
]


def plan() -> Experiment:
    return experiment(metrics=METRICS, segments=["country"], covariates=["before", "age"])


def covariates(exposures: list[Exposure]) -> list[Covariate]:
    rng = np.random.default_rng(3)
    units = sorted({row.unit for row in exposures})
    rows = [Covariate("ranker", unit, "before", float(rng.gamma(2.0))) for unit in units[: len(units) * 9 // 10]]
    return rows + [Covariate("ranker", unit, "age", float(rng.integers(18, 80))) for unit in units]


def table(
    exposures: list[Exposure], outcomes: list[Outcome], values: list[Covariate], as_of: int
) -> dict[str, dict[str, Any]]:
    """The same per-unit values from the rows, in Python."""
    first: dict[str, int] = {}
    arm: dict[str, str] = {}
    for row in exposures:
        first[row.unit] = min(row.time, first.get(row.unit, row.time))
        arm[row.unit] = row.arm
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    days: dict[str, set[int]] = defaultdict(set)
    for event in outcomes:
        if first[event.unit] <= event.time < as_of:
            counts[event.unit][event.event] += event.value
            if event.time < first[event.unit] + 3 * DAY_US:
                counts[event.unit][f"{event.event}-3"] += event.value
            if event.event == "view":
                days[event.unit].add((event.time - first[event.unit]) // DAY_US)
    known = {(row.unit, row.name): row.value for row in values}
    return {
        unit: {
            "arm": arm[unit],
            "age": as_of - first[unit],
            "click": counts[unit]["click"],
            "view": counts[unit]["view"],
            "long": counts[unit]["long"],
            "long-3": counts[unit]["long-3"],
            "days": len(days[unit] & set(range(1, 6))),
            "back": float(2 in days[unit]),
            "before": known.get((unit, "before")),
            "years": known[unit, "age"],
        }
        for unit in first
    }


def expected(units: dict[str, dict[str, Any]], numerator: str, denominator: str | None, least: int) -> Effect:
    chosen = [row for row in units.values() if row["age"] >= least]
    known = [row["before"] for row in chosen if row["before"] is not None]
    center = float(np.mean(known))
    parts = []
    for arm in ("control", "mixer"):
        mine = [row for row in chosen if row["arm"] == arm]
        columns = {
            "n": [row[numerator] for row in mine],
            "x": [center if row["before"] is None else row["before"] for row in mine],
            "y": [row["years"] for row in mine],
        }
        if denominator is not None:
            columns["d"] = [row[denominator] for row in mine]
        parts.append(moments_of(columns))
    return compare(*parts, numerator="n", denominator=None if denominator is None else "d", covariates=["x", "y"])


def test_every_metric_equals_its_definition_over_the_rows(address: str) -> None:
    exposures, outcomes = simulate(plan(), units=600, rates={"mixer": 0.25})
    values = covariates(exposures)
    events = database(address, plan(), exposures, outcomes, values)
    as_of = plan().end_us
    reading = read_experiment(plan(), events, as_of=as_of)
    assert reading.valid
    units = table(exposures, outcomes, values, as_of)
    found = {effect.metric: effect for effect in reading.effects}
    definitions = {
        "ctr": ("click", "view", 0),
        "longs": ("long", None, 0),
        "longs-3": ("long-3", None, 3 * DAY_US),
        "days": ("days", None, 6 * DAY_US),
        "back": ("back", None, 3 * DAY_US),
    }
    for name, definition in definitions.items():
        effect, reference = found[name], expected(units, *definition)
        for field in ("units_control", "units", "control", "treatment", "difference", "low", "high", "p", "deviation"):
            assert getattr(effect, field) == pytest.approx(getattr(reference, field), rel=1e-9, abs=1e-11), (
                name,
                field,
            )
    assert found["days"].units < found["longs-3"].units < found["ctr"].units  # the young ones are left out
    assert {effect.segment for effect in reading.segments} == {"country=de", "country=fr"}
    german = [effect for effect in reading.segments if effect.segment == "country=de" and effect.metric == "ctr"]
    assert german[0].units_control + german[0].units == 400
    events.close()


def test_what_does_not_count(tmp_path: Path) -> None:
    """Outcomes before the first exposure, shadow arms, overrides, later days, other experiments, units of two arms."""
    base = experiment(metrics=METRICS[:1], overrides={"u1": "mixer"})
    exposures, outcomes = simulate(base, units=1_500)
    start, more = base.start_us, []
    whole = read(tmp_path / "whole.sqlite", base, exposures, outcomes)
    first = min(row.time for row in exposures if row.unit == "u0")
    more.append(Outcome("early", "u0", "click", 99.0, first - 1, first, None, None))
    more.append(Outcome("late", "u0", "click", 99.0, base.end_us, base.end_us, None, None))
    more.append(Outcome("stranger", "nobody", "click", 99.0, start + HOUR, start + HOUR, None, None))
    others = [
        Exposure("ranker", 1, "s", "mixer", start + HOUR, "shadow", "b", 0.5, 1),
        Exposure("another", 1, "t", "mixer", start + HOUR, "another", "b", 0.5),
        Exposure("ranker", 1, "late", "mixer", base.end_us, "late", "b", 0.5),
        Exposure("ranker", 1, "two", "mixer", start + HOUR, "two-1", "b", 0.5),
        Exposure("ranker", 1, "two", "control", start + 2 * HOUR, "two-2", "b", 0.5),
    ]
    found = read(tmp_path / "more.sqlite", base, exposures + others, outcomes + more)
    assert found.effects == whole.effects
    assert found.units == whole.units == {"control": whole.units["control"], "mixer": whole.units["mixer"]}
    assert sum(found.units.values()) == 1_499  # u1 is an override


def test_a_reading_as_of_a_day_knows_nothing_later(tmp_path: Path) -> None:
    base = experiment(metrics=METRICS[:1], reading="sequential", planned_units=2_000)
    exposures, outcomes = simulate(base, units=1_000)
    day = base.start_us + 7 * DAY_US
    events = database(tmp_path / "all.sqlite", base, exposures, outcomes)
    past = database(
        tmp_path / "past.sqlite",
        base,
        [row for row in exposures if row.time < day],
        [row for row in outcomes if row.time < day],
    )
    whole, cut = (read_experiment(base, one, as_of=day) for one in (events, past))
    assert whole.effects == cut.effects
    assert whole.verdict == cut.verdict
    assert max(number for _, number, _ in whole.entries) == 6


def test_guardrails_are_one_sided_and_not_corrected(tmp_path: Path) -> None:
    metrics = [*METRICS[:2], {"name": "safe", "kind": "mean", "event": "long", "guardrail": True, "margin": 0.1}]
    base = experiment(metrics=metrics)
    reading = read(tmp_path / "e.sqlite", base, *simulate(base))
    effects = {effect.metric: effect for effect in reading.effects}
    assert effects["safe"].p_corrected is None
    p = sorted(effects[name].p for name in ("ctr", "longs"))
    found = sorted(effects[name].p_corrected or 0.0 for name in ("ctr", "longs"))
    assert found == pytest.approx([min(2 * p[0], 1), min(max(2 * p[0], p[1]), 1)])
    two_sided, bounds = effects["longs"], effects["safe"]
    assert (bounds.high - bounds.low) / (two_sided.high - two_sided.low) == pytest.approx(1.645 / 1.96, rel=1e-2)


def test_a_reading_is_json_without_numbers_that_json_lacks(tmp_path: Path) -> None:
    base = experiment(metrics=METRICS)
    reading = read(tmp_path / "e.sqlite", base, *simulate(base, units=400))
    values = json.loads(json.dumps(reading.as_json(), allow_nan=False))
    assert values["verdict"]["decision"] in ("ship", "do not ship")
    assert [check["name"] for check in values["checks"]][:4] == [
        "specification",
        "sample ratio",
        "one arm a unit",
        "outcomes arrive",
    ]


def test_an_experiment_without_exposures_waits(tmp_path: Path) -> None:
    base = experiment(reading="sequential")
    reading = read(tmp_path / "e.sqlite", base, [], [])
    assert reading.verdict.decision == "not decidable"  # it is over
    assert reading.verdict.reasons[-1] == "enough units: the smallest arm has 0 units, expected at least 100"
    events = Events(f"sqlite:///{tmp_path / 'e.sqlite'}")
    early = read_experiment(base, events, as_of=base.start_us + DAY_US)
    events.close()
    assert early.verdict.decision == "keep running"
    assert "no unit was exposed" in early.verdict.reasons[0]


def read(path: Path, plan: Experiment, exposures: list[Exposure], outcomes: list[Outcome]) -> Reading:
    events = database(path, plan, exposures, outcomes)
    try:
        return read_experiment(plan, events, as_of=plan.end_us)
    finally:
        events.close()
