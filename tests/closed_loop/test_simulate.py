"""A simulated experiment: each user sees one arm, and the truth is what every arm does to all users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unimixer.abtest.assignment import assign
from unimixer.abtest.events import Events
from unimixer.closed_loop.config import Behavior, SimulationConfig
from unimixer.closed_loop.simulate import (
    PotentialOutcomes,
    Simulation,
    make_environment,
    make_experiment,
    potential_outcomes,
    simulate,
)
from unimixer.closed_loop.truth import metric_values
from unimixer.errors import UnimixerError
from unimixer.settings import parse


def config(**changes: Any) -> SimulationConfig:
    world = {"rows": 20_000, "items": 300}
    values = {"users": 600, "days": 8, "warmup_days": 4, "world": world, "candidates": 12, **changes}
    return parse(SimulationConfig, values, where="simulation")


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(config(arms={"old": "popularity", "new": "truth"}))


def test_every_user_sees_the_assigned_arm(simulation: Simulation) -> None:
    seen = simulation.rows.exposures.select("unit", "arm").unique()
    assert seen.height == seen["unit"].n_unique()
    for unit, arm in seen.iter_rows():
        assert assign(simulation.experiment, unit).arm == arm
    assert set(seen["arm"]) == {"old", "new"}


def test_an_exposure_tells_the_items_in_their_order_and_the_propensity(simulation: Simulation) -> None:
    rows = simulation.rows
    first = rows.exposures.row(0, named=True)
    clicks = rows.outcomes.filter(pl.col("event") == "click", pl.col("request_id") == first["request_id"])
    assert len(json.loads(first["positions"])) == 5
    assert set(clicks["item"]) <= set(json.loads(first["positions"]))
    assert first["propensity"] == 0.5
    assert first["bundle"] == {"old": "popularity", "new": "truth"}[first["arm"]]


def test_outcomes_follow_their_exposure(simulation: Simulation) -> None:
    exposed = simulation.rows.exposures.select("request_id", exposed="time")
    joined = simulation.rows.outcomes.join(exposed, on="request_id", how="left")
    assert joined["exposed"].null_count() == 0
    assert (joined["time"] >= joined["exposed"]).all()
    assert joined["event_id"].n_unique() == joined.height


def test_an_experiment_of_one_ranker_twice_has_no_true_effect() -> None:
    same = simulate(config(arms={"a": "noisy:0.5", "b": "noisy:0.5"}))
    assert [effect.difference for effect in same.effects] == [0.0, 0.0, 0.0]


def test_the_better_ranker_has_the_higher_auc_and_click_rate(simulation: Simulation) -> None:
    old, new = simulation.arms
    assert new.auc > old.auc
    click_rate = next(effect for effect in simulation.effects if effect.metric == "click_rate")
    assert click_rate.difference > 0.1
    assert click_rate.arm_value == pytest.approx(new.click_rate)  # before any event is left out


def test_covariates_are_the_days_before(simulation: Simulation) -> None:
    values = simulation.rows.covariates.pivot(on="name", index="unit", values="value")
    assert set(values["unit"]) == set(simulation.rows.exposures["unit"])
    assert values["active_days_before"].max() <= 4
    assert (values["clicks_before"] <= values["impressions_before"]).all()


def test_events_are_written_once_however_often(simulation: Simulation, tmp_path: Path) -> None:
    events = Events(f"sqlite:///{tmp_path / 'events.sqlite'}")
    for _ in range(2):
        simulation.rows.write(events, simulation.experiment)
    counts = events.counts()
    events.close()
    rows = simulation.rows
    assert counts["exposures"] == rows.exposures.height
    assert counts["outcomes"] == rows.outcomes.height
    assert counts["covariates"] == rows.covariates.height


def test_users_outside_the_traffic_see_the_control_and_are_not_exposed() -> None:
    part = simulate(config(experiment={"traffic": 0.5}))
    exposed, active = part.rows.exposures["unit"].unique(), part.rows.outcomes["unit"].unique()
    assert 0.4 < len(exposed) / len(active) < 0.6
    assert set(exposed) < set(active)


@pytest.fixture(scope="module")
def outcomes() -> PotentialOutcomes:
    environment = make_environment(config(users=1_500, days=10, warmup_days=0))
    return potential_outcomes(environment, {"control": "popularity", "treatment": "diverse:3"})


def test_intervals_of_random_assignments_cover_the_true_effect(outcomes: PotentialOutcomes) -> None:
    """Of 400 assignments of one population; the interval of Neyman is conservative, so the rate is 95% or more."""
    experiment = make_experiment(config(days=10), make_environment(config(users=10)))
    metric = experiment.metrics[1]
    assert metric.kind == "active-days"
    control, treatment = (
        metric_values(visits, metric, "visit", experiment, experiment.end_us) for visits in outcomes.visits.values()
    )
    assert len(control) == len(treatment)  # the first exposure does not depend on the arm
    effect, generator, covered = treatment.mean() - control.mean(), np.random.default_rng(0), 0
    for _ in range(400):
        arm = generator.random(len(control)) < 0.5
        shown = control[~arm], treatment[arm]
        error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in shown))
        covered += abs(shown[1].mean() - shown[0].mean() - effect) <= 1.96 * error
    assert covered / 400 >= 0.93


def test_a_ranker_that_wins_offline_loses_online() -> None:
    """The truth ranks clicks best and shows lists of like items; a diverse list has fewer clicks and more returns."""
    behavior = Behavior(repetition=0.4, return_weight=0.6)
    case = simulate(config(users=2_000, days=12, arms={"diverse": "diverse:2", "accurate": "truth"}, behavior=behavior))
    diverse, accurate = case.arms
    effects = {effect.metric: effect.difference for effect in case.effects}
    assert accurate.auc > diverse.auc + 0.005
    assert accurate.uauc > diverse.uauc
    assert effects["click_rate"] > 0
    assert effects["active_days_5"] < 0
    assert accurate.similarity > diverse.similarity + 0.1  # the cause
    assert accurate.satisfaction < diverse.satisfaction


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shown": 13}, "shown=13 must be at most candidates=12"),
        ({"arms": {"a": "truth"}}, "arms: a simulation compares two arms or more"),
        ({"arms": {"a": "truth", "b": "nothing"}}, "unknown ranker 'nothing'"),
        ({"weights": {"c": 1}}, "unknown arm 'c'"),
        ({"broken": ["bot"]}, "broken.0='bot': input should be 'skewed-split', 'bots'"),
        ({"world": {"fields": 64}}, "world.fields: a simulation needs a world with users, items and histories"),
        ({"experiment": {"targeting": {"tab": [1]}}}, "experiment.targeting: a simulation shows its arms to all users"),
        (
            {"experiment": {"arms": {"a": {}, "b": {}}}},
            "experiment.arms: the arms of a simulation are those of the key",
        ),
    ],
)
def test_settings_that_fit_no_experiment_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as refused:
        simulate(config(**changes))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": 1}, "users=1: 0 visit on the first day"),
        ({"seed": 2**40}, "seed=1099511627776"),
        (
            {"experiment": {"start": "2025-01-01"}},
            "the users of a simulation arrive from 2025-01-20 on; leave start out",
        ),
    ],
)
def test_settings_without_an_experiment_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        simulate(config(**changes))


def test_an_arm_without_a_visit_is_refused() -> None:
    environment = make_environment(config(users=60, days=1, warmup_days=1))
    environment._level -= 100
    with pytest.raises(UnimixerError, match=r"arms\.control: none of 60 users visits in 1 days"):
        potential_outcomes(environment, environment.config.arms)
