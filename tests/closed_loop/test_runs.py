"""A trained run as an arm: its scores are those of the predictor, and its histories learn the clicks."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.environment import Environment
from unimixer.closed_loop.runs import RunRanker, world_options
from unimixer.closed_loop.simulate import make_environment, simulate
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.settings import parse
from unimixer.training.run import RunFolder


def config(run: RunFolder, **changes: object) -> SimulationConfig:
    arms = {"control": "popularity", "run": str(run.folder)}
    return parse(SimulationConfig, {"users": 60, "days": 4, "candidates": 8, "arms": arms, **changes}, where="test")


@pytest.fixture
def environment(world_run: RunFolder) -> Environment:
    return make_environment(config(world_run))


def test_the_world_is_that_of_the_run(environment: Environment, world_run: RunFolder) -> None:
    assert world_options(world_run.folder) == {"rows": 3_000, "users": 60, "items": 80}
    assert (environment.world_config.num_rows, environment.world_config.num_items) == (3_000, 80)


def test_scores_are_those_of_the_predictor(environment: Environment, world_run: RunFolder) -> None:
    sessions = environment.sessions(0, environment.start())
    scores = RunRanker(world_run.folder).scores(sessions)
    rows = pl.DataFrame(
        {
            "user_id": [int(sessions.user[0])] * 8,
            "item_id": sessions.candidates[0].tolist(),
            "time": [int(sessions.time[0])] * 8,
            **{name: [int(column[0])] * 8 for name, column in sessions.context.items()},
        }
    )
    expected = Predictor(world_run.folder, device="cpu").predict(rows)["click"].to_torch()
    assert torch.allclose(scores[0].sigmoid(), expected, atol=1e-6)


def test_clicks_enter_the_histories_in_the_order_of_time(environment: Environment, world_run: RunFolder) -> None:
    ranker = RunRanker(world_run.folder)
    before = ranker.predictor.transform.histories["clicked"]
    visits = environment.run(ranker, [0], environment.start())
    after = ranker.predictor.transform.histories["clicked"]
    user = int(visits.user[visits.clicks.any(1).nonzero()[0, 0]])
    row = int(ranker.predictor.transform.users.index.lookup(pl.Series([str(user)]))[0])
    old, new = (history.items.values[slice(*history.items.offsets[row : row + 2])] for history in (before, after))
    shown = visits.items[visits.user == user][visits.clicks[visits.user == user]]
    clicked = ranker.predictor.transform.items.index.lookup(pl.Series(shown.tolist()).cast(pl.String))
    assert new[: len(old)].tolist() == old.tolist()
    assert sorted(new[len(old) :].tolist()) == sorted(clicked.tolist())


def test_a_simulation_with_a_run_is_the_same_every_time(world_run: RunFolder) -> None:
    first, second = simulate(config(world_run)), simulate(config(world_run))
    assert first.effects == second.effects
    assert first.rows.outcomes.equals(second.rows.outcomes)


def test_a_world_that_contradicts_the_run_is_refused(world_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match="its world has rows=3000, and another arm or the settings say 5000"):
        make_environment(config(world_run, world={"rows": 5_000, "users": 60, "items": 80}))


def test_a_run_on_other_data_is_refused(toy_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match="a simulation needs a world with users, items and histories"):
        make_environment(config(toy_run))
