"""Faults: each changes what it says, and nothing else."""

from __future__ import annotations

from typing import get_args

import polars as pl
import pytest
from scipy.stats import binomtest

from unimixer.closed_loop.broken import BOT_REQUESTS, BOTS, BREAKS
from unimixer.closed_loop.config import Fault, SimulationConfig
from unimixer.closed_loop.simulate import Simulation, simulate


@pytest.fixture(scope="module")
def sound() -> Simulation:
    return simulate(SimulationConfig(users=2_000, days=6, warmup_days=0, candidates=10, world={"rows": 20_000}))


def test_every_fault_has_a_function() -> None:
    assert set(BREAKS) == set(get_args(Fault))


@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_the_same_every_time_and_keeps_the_columns(name: str, sound: Simulation) -> None:
    first, second = (BREAKS[name](sound.rows, sound.experiment) for _ in range(2))
    for table in ("exposures", "outcomes", "covariates"):
        assert getattr(first, table).equals(getattr(second, table))
        assert getattr(first, table).schema == getattr(sound.rows, table).schema


def test_a_skewed_split_loses_a_fifth_of_an_arm(sound: Simulation) -> None:
    counts = [
        dict(rows.exposures.group_by("arm").agg(pl.col("unit").n_unique()).iter_rows())
        for rows in (sound.rows, BREAKS["skewed-split"](sound.rows, sound.experiment))
    ]
    assert counts[0]["control"] == counts[1]["control"]
    assert binomtest(counts[0]["treatment"] - counts[1]["treatment"], counts[0]["treatment"], 0.2).pvalue > 0.001


def test_bots_ask_and_click_more_than_anyone(sound: Simulation) -> None:
    rows = BREAKS["bots"](sound.rows, sound.experiment)
    requests = rows.exposures.group_by("unit").len().sort("len", descending=True)
    assert (requests["len"][:BOTS] > BOT_REQUESTS).all()
    assert requests["len"][BOTS] < 50
    assert rows.exposures["request_id"].is_unique().all()
    assert rows.outcomes["event_id"].is_unique().all()


def test_lost_events_leave_units_of_one_arm_without_outcomes(sound: Simulation) -> None:
    rows = BREAKS["lost-events"](sound.rows, sound.experiment)
    silent = rows.exposures.filter(~pl.col("unit").is_in(rows.outcomes["unit"].unique().to_list()))
    assert set(silent["arm"]) == {"treatment"}
    assert rows.exposures.equals(sound.rows.exposures)


def test_two_arms_serve_some_units_by_turns(sound: Simulation) -> None:
    rows = BREAKS["two-arms"](sound.rows, sound.experiment)
    arms = rows.exposures.group_by("unit").agg(pl.col("arm").n_unique())
    assert 0.02 < (arms["arm"] == 2).mean() < 0.06
    assert rows.outcomes.equals(sound.rows.outcomes)


def test_clocks_run_a_year_ahead(sound: Simulation) -> None:
    rows = BREAKS["future-clocks"](sound.rows, sound.experiment)
    ahead = rows.outcomes.filter(pl.col("time") > pl.col("received"))
    assert 0.005 < ahead["unit"].n_unique() / sound.rows.outcomes["unit"].n_unique() < 0.04


def test_early_outcomes_come_before_their_request(sound: Simulation) -> None:
    rows = BREAKS["early-outcomes"](sound.rows, sound.experiment)
    joined = rows.outcomes.join(rows.exposures.select("request_id", exposed="time"), on="request_id")
    early = joined.filter(pl.col("time") < pl.col("exposed"))
    assert 0.02 < early["unit"].n_unique() / rows.exposures["unit"].n_unique() < 0.09
