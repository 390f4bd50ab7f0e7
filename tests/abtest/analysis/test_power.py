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
from unimixer.abtest.analysis.statistics import moments
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
    wider = [
        (Sequential(10_000).multiplier(units) + stats.norm.ppf(0.8)) / Z
        for units in (plans[1].units_needed, 1_400)
        if units
    ]
    assert (plans[1].units_needed or 0) / (plans[0].units_needed or 1) == pytest.approx(wider[0] ** 2, rel=1e-3)
    assert plans[1].detectable / plans[0].detectable == pytest.approx(wider[1], rel=1e-6)


def test_a_sequential_guardrail_is_planned_with_its_one_sided_bound() -> None:
    guardrail = [MEAN[0] | {"guardrail": "true"}]
    fixed, always = (
        plan_metric(one, one.metrics[0], baseline(2.0, 3.0), units_per_day=1_000)
        for one in (experiment(metrics=guardrail, reading=reading) for reading in ("fixed", "sequential"))
    )
    level = stats.norm.isf(0.05) + stats.norm.ppf(0.8)
    reach = Sequential(10_000).multiplier(14_000, 0.05, one_sided=True)
    assert fixed.detectable == pytest.approx(level * 3 * math.sqrt(4 / 14_000) / 2, rel=1e-4)
    assert always.detectable / fixed.detectable == pytest.approx((reach + stats.norm.ppf(0.8)) / level, rel=1e-6)


def test_a_ratio_without_a_denominator_in_the_past_is_refused() -> None:
    plan = experiment()
    past = moments(50, {"n": 1.0, "d": 0.0}, {("n", "n"): 1.0, ("d", "d"): 0.0, ("n", "d"): 0.0})
    with pytest.raises(UnimixerError, match="metric 'ctr': no unit has an outcome 'view' in the past"):
        plan_metric(plan, plan.metrics[0], past, units_per_day=100)


def test_a_ratio_that_is_given_by_its_mean_and_deviation_is_planned_like_a_mean() -> None:
    ratio = experiment(metrics=[{"name": "ctr", "kind": "ratio", "event": "click", "denominator": "show"}])
    mean = experiment(metrics=[{"name": "ctr", "kind": "mean", "event": "click"}])
    plans = [
        plan_metric(one, one.metrics[0], baseline(0.12, 0.4), units_per_day=5000, effect=0.02) for one in (ratio, mean)
    ]
    assert plans[0] == plans[1]


def test_a_shadow_alone_is_nothing_to_plan() -> None:
    plan = experiment(metrics=MEAN, arms={"control": {}, "mixer": {"shadow": True}})
    with pytest.raises(UnimixerError, match="no arm but the control that answers"):
        plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), units_per_day=100)


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
        ({"units_per_day": math.nan}, "--units-per-day nan must be a finite number"),
        ({"units_per_day": math.inf}, "--units-per-day inf must be a finite number"),
        ({"effect": math.nan}, "--effect nan must be a finite number"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    plan = experiment(metrics=MEAN)
    with pytest.raises(UnimixerError, match=message):
        plan_metric(plan, plan.metrics[0], baseline(2.0, 3.0), **{"units_per_day": 100.0, **changes})
    for mean, deviation in ((0.0, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)):
        with pytest.raises(UnimixerError, match=f"--mean {mean:g} and --std {deviation:g} must be greater than 0"):
            baseline(mean, deviation)
