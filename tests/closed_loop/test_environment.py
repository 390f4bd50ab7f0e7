"""Users: the same luck under every arm, visits that follow satisfaction, and worlds that match the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unimixer.closed_loop.config import Behavior, SimulationConfig
from unimixer.closed_loop.environment import Environment, _distinct
from unimixer.closed_loop.rankers import RandomRanker, built_in_ranker
from unimixer.closed_loop.sessions import Visits
from unimixer.data.synthetic import World, WorldConfig
from unimixer.errors import UnimixerError

WORLD = {"rows": 20_000, "items": 300}


def config(**changes: Any) -> SimulationConfig:
    return SimulationConfig(**{"users": 800, "days": 6, "warmup_days": 3, "world": WORLD, "candidates": 12, **changes})


@pytest.fixture(scope="module")
def environment() -> Environment:
    return Environment(config())


def run(environment: Environment, ranker: str, days: int = 6) -> Visits:
    return environment.run(built_in_ranker(ranker, environment.world, 0), range(days), environment.start())


def test_the_same_seed_gives_the_same_visits(environment: Environment) -> None:
    first, second = run(environment, "truth"), run(Environment(config()), "truth")
    assert torch.equal(first.items, second.items)
    assert torch.equal(first.clicks, second.clicks)
    assert torch.equal(first.time, second.time)


def test_another_seed_gives_other_visits(environment: Environment) -> None:
    assert len(run(environment, "truth", 1)) != len(run(Environment(config(seed=1)), "truth", 1))


def test_users_have_the_same_luck_under_every_arm_until_their_satisfaction_differs(environment: Environment) -> None:
    good, bad = run(environment, "truth", 1), run(environment, "random", 1)
    assert torch.equal(good.user, bad.user)
    assert torch.equal(good.time, bad.time)
    both = [
        (g, b)
        for row in range(len(good))
        for g, item in enumerate(good.items[row].tolist())
        for b, other in enumerate(bad.items[row].tolist())
        if item == other and bool(good.clicks[row, g]) != bool(bad.clicks[row, b])
    ]
    assert both == []  # one item, one user, one session: one outcome


def test_a_visit_has_the_stated_probability(environment: Environment) -> None:
    population = environment.start()
    population.satisfaction[:] = 1.5
    counts = [len(set(environment.sessions(day, population).user.tolist())) for day in range(40)]
    expected = torch.sigmoid(environment._level + 0.5 * 1.5).sum()
    variance = float((torch.sigmoid(environment._level + 0.75) * (1 - torch.sigmoid(environment._level + 0.75))).sum())
    assert np.mean(counts) == pytest.approx(float(expected), abs=4 * (variance / 40) ** 0.5)


def test_satisfaction_moves_to_the_mean_of_the_day(environment: Environment) -> None:
    population = environment.start()
    visits = environment.run(RandomRanker(0), [0], population)
    user = int(visits.user[0])
    z = visits.satisfaction[visits.user == user].mean()
    assert population.satisfaction[user] == pytest.approx(0.3 * float(z), abs=1e-6)
    absent = torch.ones(800, dtype=torch.bool)
    absent[visits.user] = False
    assert population.satisfaction[absent].abs().sum() == 0


def test_the_worth_of_a_list_is_likes_less_disappointment_less_repetition(environment: Environment) -> None:
    items = torch.tensor([[1, 1, 1], [1, 2, 3]])
    clicks = torch.tensor([[True, True, False], [True, False, False]])
    likes = torch.tensor([[True, False, False], [False, False, False]])
    similarity, worth = environment._worth(items, clicks, likes)
    v = environment.world.item_vectors
    mean = float((v[1] @ v[2] + v[1] @ v[3] + v[2] @ v[3]) / 3)
    assert similarity.tolist() == pytest.approx([1.0, mean], abs=1e-5)
    assert worth.tolist() == pytest.approx([(1 - 0.1) / 3 - 0.2, -0.1 / 3 - 0.2 * mean], abs=1e-5)


def test_random_lists_have_satisfaction_zero_and_spread_one(environment: Environment) -> None:
    visits = environment.run(RandomRanker(0), [-3], environment.start())
    assert float(visits.satisfaction.mean()) == pytest.approx(0, abs=1e-4)
    assert float(visits.satisfaction.std()) == pytest.approx(1, abs=1e-4)


def test_without_return_weight_the_arms_do_not_move_visits() -> None:
    plain = Environment(config(behavior=Behavior(return_weight=0.0)))
    assert torch.equal(run(plain, "truth").time, run(plain, "random").time)


def test_clicks_have_the_true_probabilities(environment: Environment) -> None:
    sessions = environment.sessions(0, environment.start())
    chance = sessions.chance[..., 0].double()
    clicked = (sessions.luck < sessions.chance[..., 0]).sum()
    error = (chance * (1 - chance)).sum().sqrt()
    assert float(clicked) == pytest.approx(float(chance.sum()), abs=4 * float(error))
    assert bool((sessions.chance[..., 1] <= sessions.chance[..., 0]).all())  # a like needs a click


def test_the_days_follow_the_log_and_begin_at_midnight(environment: Environment) -> None:
    last = max(int(block["time"].max()) for block in environment.world.impressions())
    day = 86_400_000
    assert environment.first_time % day == 0
    assert last < environment.first_time - 3 * day < last + 2 * day
    visits = run(environment, "random", 2)
    assert bool(((visits.time - environment.first_time) // day == visits.day).all())
    assert torch.equal(visits.context["hour"], visits.time // 3_600_000 % 24)


def test_the_world_after_the_log_is_that_of_its_last_block() -> None:
    world = World(WorldConfig(num_rows=20_000, num_users=500))
    state, first = world.end(), world.start()
    assert not torch.equal(state.interest, first.interest)
    assert torch.equal(first.interest, world.start().interest)  # a pass moves a state of its own
    *_, last = world.impressions()
    assert len(last["click"]) > 0
    moved = world.start()
    list(world.impressions(moved))
    assert torch.equal(moved.interest, state.interest)


def test_no_item_stands_twice_in_a_list() -> None:
    ranks = torch.tensor([[0, 0, 0, 5], [9, 9, 9, 9], [3, 1, 2, 0]])
    assert _distinct(ranks, 10).tolist() == [[0, 1, 2, 5], [6, 7, 8, 9], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 301}, "candidates=301 must be at most 300, as many as the world has"),
        ({"world": {"users": 100}}, "users=800 must be at most 100, as many as the world has"),
        ({"world": {"itmes": 100}}, "unknown option of the world 'itmes'; did you mean 'items'?"),
    ],
)
def test_settings_that_do_not_fit_the_world_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as refused:
        Environment(config(**changes))
    assert str(refused.value) == message
