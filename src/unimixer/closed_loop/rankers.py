"""Rank the items of a session without a trained model: by the truth, with noise, by popularity, at random."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.data.synthetic import World
from unimixer.errors import UnimixerError, unknown

BUILT_IN = {
    "truth": "by the true probability of a click",
    "truth-like": "by the true probability of a like",
    "noisy": "noisy:S, by the true log odds of a click with normal noise of standard deviation S",
    "diverse": "diverse:W, by the true log odds of a click less W times the largest cosine with an item above",
    "popularity": "by the popularity of the day",
    "random": "at random",
}


class Ranker(ABC):
    """Rank the candidates of sessions; it may learn from the clicks of every day."""

    @abstractmethod
    def scores(self, sessions: Sessions) -> Tensor:
        """Return the scores of the candidates, ``(B, candidates)``; higher is better."""

    def rank(self, sessions: Sessions, shown: int) -> Tensor:
        """Return the positions ``(B, shown)`` of the best candidates, best first; equal ones keep their order."""
        return self.scores(sessions).sort(dim=1, descending=True, stable=True).indices[:, :shown]

    def observe(self, visits: Visits) -> None:  # noqa: B027  # most rankers learn nothing
        """Learn what came of the sessions of a day."""


class TruthRanker(Ranker):
    """Rank by a true probability, on the scale of log odds.

    Args:
        task: 0 for the click, 1 for the like.
        noise: standard deviation of an error that a user and an item always have.
        seed: of the errors.
    """

    def __init__(self, task: int = 0, noise: float = 0.0, seed: int = 0) -> None:
        self.task, self.noise, self.seed = task, noise, seed

    def scores(self, sessions: Sessions) -> Tensor:
        """Return log odds."""
        odds = sessions.chance[..., self.task].logit(eps=1e-6)
        if not self.noise:
            return odds
        uniform = hashed_uniform(self.seed, sessions.user[:, None], sessions.candidates)
        error: Tensor = torch.special.ndtri(uniform).float()
        return odds + self.noise * error


class DiverseRanker(Ranker):
    r"""Rank greedily by maximal marginal relevance: the log odds of a click, less similarity to what stands above.

    .. math:: s_i = \operatorname{logit} p_i - W \max_{j \text{ above } i} \langle v_i, v_j \rangle

    Carbonell and Goldstein (1998). A score never exceeds the one above it, so the order of the scores is the list.
    """

    def __init__(self, weight: float, vectors: Tensor) -> None:
        self.weight, self.vectors = weight, vectors

    def scores(self, sessions: Sessions) -> Tensor:
        """Return the marginal relevance of every candidate at its place in the list."""
        odds, vectors = sessions.chance[..., 0].logit(eps=1e-6), self.vectors[sessions.candidates]
        result, nearest = torch.empty_like(odds), torch.full_like(odds, -1.0)
        left, rows = torch.ones_like(odds, dtype=torch.bool), torch.arange(len(odds))
        for _ in range(odds.shape[1]):
            relevance = odds - self.weight * nearest
            best = relevance.masked_fill(~left, -math.inf).argmax(1)
            result[rows, best] = relevance[rows, best]
            left[rows, best] = False
            nearest = torch.maximum(nearest, (vectors * vectors[rows, best][:, None]).sum(-1))
        return result


class PopularityRanker(Ranker):
    """Rank by the popularity of the day; the candidates come in this order."""

    def scores(self, sessions: Sessions) -> Tensor:
        """Return the positions, negated."""
        return -torch.arange(sessions.candidates.shape[1]).float().expand(sessions.candidates.shape)


class RandomRanker(Ranker):
    """Rank at random, anew in every session."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def scores(self, sessions: Sessions) -> Tensor:
        """Return uniform numbers."""
        return hashed_uniform(self.seed, sessions.time[:, None], sessions.user[:, None], sessions.candidates)


def built_in_ranker(text: str, world: World, seed: int) -> Ranker:
    """Make a ranker of its name.

    Raises:
        UnimixerError: the name is unknown, or its number is missing or wrong.
    """
    name, _, number = text.partition(":")
    if name not in BUILT_IN:
        raise unknown("ranker", name, BUILT_IN)
    if name not in ("noisy", "diverse"):
        if number:
            raise UnimixerError(f"ranker {text!r}: {name} takes no number")
        plain = {"truth": TruthRanker(0), "truth-like": TruthRanker(1), "popularity": PopularityRanker()}
        return plain.get(name) or RandomRanker(seed)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UnimixerError(f"ranker {text!r}: {name} takes a number, 0 or more, for example {name}:0.5")
    return TruthRanker(0, value, seed) if name == "noisy" else DiverseRanker(value, world.item_vectors)


def hashed_uniform(seed: int, *columns: Tensor) -> Tensor:
    """Return a uniform number above 0 and below 1 that is a function of a seed and of integers (SplitMix64)."""
    state = torch.tensor(seed)
    for column in columns:
        state = _mixed(state + column)
    return ((state >> 12) & ((1 << 52) - 1)).double().add(0.5) / (1 << 52)


def _mixed(state: Tensor) -> Tensor:
    state = state - 7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return state ^ ((state >> 31) & ((1 << 33) - 1))
