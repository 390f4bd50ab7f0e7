"""Built-in rankers: the truth is best, noise costs AUC, diversity costs clicks, and no score depends on the day."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.environment import Environment
from unimixer.closed_loop.rankers import DiverseRanker, built_in_ranker, hashed_uniform
from unimixer.closed_loop.sessions import Sessions
from unimixer.errors import UnimixerError
from unimixer.metrics import auc


@pytest.fixture(scope="module")
def environment() -> Environment:
    return Environment(SimulationConfig(users=1_500, candidates=12, world={"rows": 20_000, "items": 300}))


@pytest.fixture(scope="module")
def sessions(environment: Environment) -> Sessions:
    return environment.sessions(0, environment.start())


def auc_of(name: str, environment: Environment, sessions: Sessions) -> float:
    scores = built_in_ranker(name, environment.world, 0).scores(sessions)
    labels = sessions.luck < sessions.chance[..., 0]
    return auc(scores.flatten().double().numpy(), labels.flatten().numpy())


def test_noise_lowers_the_auc_of_the_truth(environment: Environment, sessions: Sessions) -> None:
    names = ("truth", "noisy:0.5", "noisy:2", "random")
    found = [auc_of(name, environment, sessions) for name in names]
    assert sorted(found, reverse=True) == found
    assert found[-1] == pytest.approx(0.5, abs=0.02)


def test_noise_zero_is_the_truth(environment: Environment, sessions: Sessions) -> None:
    truth, noisy = (built_in_ranker(name, environment.world, 0) for name in ("truth", "noisy:0"))
    assert torch.equal(truth.scores(sessions), noisy.scores(sessions))


def test_the_error_of_a_noisy_ranker_has_the_stated_deviation_and_stays(
    environment: Environment, sessions: Sessions
) -> None:
    truth, noisy = (built_in_ranker(name, environment.world, 0).scores(sessions) for name in ("truth", "noisy:0.7"))
    error = (noisy - truth).flatten()
    assert float(error.std()) == pytest.approx(0.7, rel=0.02)
    assert float(error.mean()) == pytest.approx(0, abs=0.02)
    assert torch.equal(built_in_ranker("noisy:0.7", environment.world, 0).scores(sessions), noisy)


def test_popularity_keeps_the_order_of_the_candidates(environment: Environment, sessions: Sessions) -> None:
    positions = built_in_ranker("popularity", environment.world, 0).rank(sessions, 5)
    assert torch.equal(positions, torch.arange(5).expand(len(sessions), 5))


def test_the_like_ranker_shows_the_items_with_the_most_likes(environment: Environment, sessions: Sessions) -> None:
    positions = built_in_ranker("truth-like", environment.world, 0).rank(sessions, 5)
    best = sessions.chance[..., 1].sort(dim=1, descending=True, stable=True).values[:, :5]
    assert torch.equal(sessions.chance[..., 1].gather(1, positions), best)


def test_diversity_is_maximal_marginal_relevance(environment: Environment, sessions: Sessions) -> None:
    ranker = DiverseRanker(2.0, environment.world.item_vectors)
    for row in range(3):
        odds = sessions.chance[row, :, 0].logit(eps=1e-6).tolist()
        vectors = environment.world.item_vectors[sessions.candidates[row]]
        chosen: list[int] = []
        while len(chosen) < 12:
            scores = {
                item: odds[item] - 2.0 * max([float(vectors[item] @ vectors[other]) for other in chosen], default=-1.0)
                for item in range(12)
                if item not in chosen
            }
            chosen.append(max(scores, key=lambda item: scores[item]))
        assert ranker.rank(sessions, 12)[row].tolist() == chosen


def test_hashed_numbers_are_uniform() -> None:
    values = hashed_uniform(3, torch.arange(200)[:, None], torch.arange(500))
    assert kstest(values.flatten().numpy(), "uniform").pvalue > 0.001
    assert abs(np.corrcoef(values[:-1].flatten(), values[1:].flatten())[0, 1]) < 0.02
    assert len(values.flatten().unique()) == values.numel()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("turth", "unknown ranker 'turth'; did you mean 'truth'?"),
        ("noisy", "ranker 'noisy': noisy takes a number, 0 or more, for example noisy:0.5"),
        ("noisy:-1", "ranker 'noisy:-1': noisy takes a number, 0 or more, for example noisy:0.5"),
        ("truth:1", "ranker 'truth:1': truth takes no number"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str, environment: Environment) -> None:
    with pytest.raises(UnimixerError) as refused:
        built_in_ranker(name, environment.world, 0)
    assert str(refused.value) == message
