"""Plans: the textbook's number of units, the sequential surcharge, and the past of a database."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from abtest_cases import database, experiment, simulate
from scipy import stats

from unimixer.abtest.analysis.power import baseline, plan_metric, read_baselines
from unimixer.abtest.analysis.sequential import Sequential
from unimixer.errors import UnimixerError

MEAN = [{"name": "clicks", "kind": "mean", "event": "click"}]
Z = stats.norm.isf(0.025) + stats.norm.ppf(0.8)


def test_units_and_effect_are_those_of_the_textbook() -> None:
    plan = experiment(metrics=MEAN)
    found = plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), units_per_day=1_000, effect=0.05)
    assert found.units == 14_000
    assert found.detectable == pytest.approx(Z * 3 * math.sqrt(4 / 14_000) / 2, rel=1e-4)
    assert found.units_needed == pytest.approx(4 * (Z * 3 / 0.1) ** 2, rel=1e-4)
    assert found.days_needed == math.ceil((found.units_needed or 0) / 1_000)


def test_a_simulation_finds_the_planned_effect_with_the_planned_chance() -> None:
    plan = experiment(metrics=MEAN)
    needed = plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), units_per_day=100, effect=0.2).units_needed or 0
    rng = np.random.default_rng(0)
    half = needed // 2
    old, new = rng.normal(2.0, 3.0, (2_000, half)), rng.normal(2.4, 3.0, (2_000, half))
    found = int((stats.ttest_ind(old, new, axis=1).pvalue < 0.05).sum())
    assert stats.binom.ppf(0.001, 2_000, 0.8) <= found <= stats.binom.ppf(0.999, 2_000, 0.8)


def test_a_covariate_saves_the_share_that_it_explains() -> None:
    plan = experiment(metrics=MEAN)
    plain, helped = (
        plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), units_per_day=100, effect=0.05, correlation=rho)
        for rho in (0.0, 0.6)
    )
    assert (helped.units_needed or 0) / (plain.units_needed or 1) == pytest.approx(1 - 0.36, rel=1e-3)


def test_a_sequential_plan_needs_more_by_its_wider_interval() -> None:
    fixed, always = (experiment(metrics=MEAN, reading=reading) for reading in ("fixed", "sequential"))
    plans = [
        plan_metric(one, one.metrics[0], baseline(2.0, 3.0), units_per_day=100, effect=0.05) for one in (fixed, always)
    ]
    reach = Sequential(10_000).multiplier(10_000)
    wider = (reach + stats.norm.ppf(0.8)) / Z
    assert (plans[1].units_needed or 0) / (plans[0].units_needed or 1) == pytest.approx(wider**2, rel=1e-3)
    assert plans[1].detectable / plans[0].detectable == pytest.approx(wider, rel=1e-6)


def test_arms_traffic_and_holdout_share_the_units() -> None:
    arms = {"control": {"weight": 2}, "mixer": {}, "mlp": {}}
    plan = experiment(metrics=MEAN, arms=arms, traffic=0.5, holdout=0.2)
    found = plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), units_per_day=1_000)
    assert found.units == int(1_000 * 14 * 0.5 * 0.8 * 0.75)
    assert (found.units_needed, found.days_needed) == (None, None)
    level = stats.norm.isf(0.025 / 2) + stats.norm.ppf(0.8)  # two arms share alpha
    variance = 9 / found.units * (1 / (2 / 3) + 1 / (1 / 3))
    assert found.detectable == pytest.approx(level * math.sqrt(variance) / 2, rel=1e-4)


def test_the_past_of_the_database_is_that_of_the_units_before_the_start(tmp_path: Path) -> None:
    past, plan = experiment(), experiment(name="next", start="2026-03-15", end="2026-03-22")
    exposures, outcomes = simulate(past, units=400)
    events = database(tmp_path / "e.sqlite", past, exposures, outcomes)
    sums, units_per_day = read_baselines(plan, events)
    recent = [row for row in outcomes if row.time >= plan.start_us - 7 * 86_400_000_000]
    units = {row.unit for row in recent}
    clicks, views = (sum(row.event == event for row in recent) for event in ("click", "view"))
    assert units_per_day == pytest.approx(len(units) / 7)
    assert sums["ctr"].count() == len(units)
    assert sums["ctr"].mean("n") / sums["ctr"].mean("d") == pytest.approx(clicks / views, rel=1e-9)


def test_a_database_without_a_past_is_refused(tmp_path: Path) -> None:
    plan = experiment()
    events = database(tmp_path / "e.sqlite", plan, [], [])
    with pytest.raises(UnimixerError, match="no unit has outcomes for metric 'ctr' in the 14 days before 2026-03-01"):
        read_baselines(plan, events)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effect": 0.0}, "--effect 0 needs endless units"),
        ({"correlation": 1.0}, "--correlation 1 must lie between -1 and 1"),
        ({"units_per_day": 0.1}, "give 1 units in 14 days"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    plan = experiment(metrics=MEAN)
    with pytest.raises(UnimixerError, match=message):
        plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), **{"units_per_day": 100.0, **changes})
    with pytest.raises(UnimixerError, match="--mean 0 and --std 1 must be greater than 0"):
        baseline(0.0, 1.0)
