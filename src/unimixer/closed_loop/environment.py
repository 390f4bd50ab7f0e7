"""The environment of a simulated experiment: a synthetic world whose users click, and return or stay away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.rankers import RandomRanker, Ranker
from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.data.synthetic import World, WorldConfig, WorldState
from unimixer.data.synthetic.draws import DAY_MS, START_MS, hour_of, time_of_day, zipf
from unimixer.data.synthetic.world import absorb_clicks
from unimixer.errors import UnimixerError, unknown

MAX_SESSIONS = 2
"""Sessions of a user on one day."""


@dataclass(frozen=True)
class Population:
    """State of all users after a day."""

    world: WorldState
    satisfaction: Tensor
    """``(users,)``, in standard deviations of lists drawn at random."""

    def copy(self) -> Population:
        """Return a copy that another arm can move."""
        return Population(replace(self.world, interest=self.world.interest.clone()), self.satisfaction.clone())


class Environment:
    r"""Simulate users who arrive, see the first items of a ranking, click, and return or stay away.

    The days follow the log of a synthetic world, so a model that is trained on the log can be served here. On day t
    user u visits with a probability that depends on the user and on the satisfaction S with the lists seen so far:

    .. math:: P(\text{visit}) = \sigma(\alpha_u + \beta S_u), \qquad
        \alpha_u \sim N(\operatorname{logit} a, \sigma_a^2)

    A session shows k items. Item j is clicked with its true probability, and a clicked item is liked or not. With the
    mean cosine r of the vectors of two shown items, the list is worth

    .. math:: q = \frac{1}{k} \sum_j (\text{like}_j - \delta (\text{click}_j - \text{like}_j)) - \rho r

    and z is q less its mean, divided by its standard deviation, over lists drawn at random. After a day with a visit

    .. math:: S_u \leftarrow m S_u + (1 - m) \bar z

    with the mean of the day's sessions. The interest of a user moves to the clicked items, as in the log, and the rules
    are those of the log's last day. :class:`~unimixer.closed_loop.config.Behavior` holds
    :math:`a, \sigma_a, \beta, \delta, \rho, m`.

    All draws belong to a user, a day and a session, whatever the arms show: two arms meet the same users with the same
    luck, and a user's outcomes under one arm do not depend on the arms of others.

    Args:
        config: of the simulation.
        options: of the world (default: those of ``config``); its first users take part.
    """

    def __init__(self, config: SimulationConfig, options: Mapping[str, Any] | None = None) -> None:
        self.config, self.behavior = config, config.behavior
        self.world_config = world_config(config.world if options is None else options, config.users)
        self.world = World(self.world_config)
        users, items = (next(f.size for f in self.world.fields if f.domain == domain) for domain in ("user", "item"))
        for name, needed, most in (("users", config.users, users), ("candidates", config.candidates, items)):
            if needed > most:
                raise UnimixerError(f"{name}={needed} must be at most {most}, as many as the world has")
        self._after_log = self.world.end()
        chance = torch.tensor(self.behavior.activity).logit()
        self._level = chance + self.behavior.activity_spread * torch.randn(config.users, generator=self._generator(-1))
        self._context = [f for f in self.world.fields if f.domain == "context"][1:]
        self._average, self._spread = self._random_lists()

    @property
    def first_time(self) -> int:
        """Midnight before the first day of the experiment, UTC, in milliseconds."""
        return (START_MS // DAY_MS + self.world_config.days + 1 + self.config.warmup_days) * DAY_MS

    def start(self) -> Population:
        """Return the users at the end of the log, with average satisfaction."""
        return Population(self._after_log, torch.zeros(self.config.users)).copy()

    def run(
        self, ranker: Ranker, days: Iterable[int], population: Population, watching: Iterable[Ranker] = ()
    ) -> Visits:
        """Simulate days on which all users see one ranker; day 0 is the first day of the experiment.

        Args:
            ranker: chooses the lists, and learns the clicks.
            days: to simulate, in order.
            population: the users, who are moved.
            watching: other rankers that learn the clicks too.
        """
        parts = []
        for day in days:
            sessions = self.sessions(day, population)
            visits = self._respond(sessions, ranker.rank(sessions, self.config.shown), population)
            for one in (ranker, *watching):
                one.observe(visits)
            parts.append(visits)
        return Visits.join(parts)

    def sessions(self, day: int, population: Population) -> Sessions:
        """Draw the sessions of a day in the order of their users."""
        config, generator = self.config, self._generator(day)
        shape, cells = (config.users, MAX_SESSIONS), config.users * MAX_SESSIONS
        active = torch.rand(config.users, generator=generator)
        again = torch.rand(config.users, generator=generator) < self.behavior.second_session
        clock = torch.rand(shape, generator=generator, dtype=torch.float64)
        context = {f.name: zipf(cells, f.size, f.exponent, generator) for f in self._context}
        item = next(f for f in self.world.fields if f.domain == "item")
        ranks = zipf(cells * config.candidates, item.size, item.exponent, generator)
        luck = torch.rand((cells, config.candidates), generator=generator)

        visits = active < torch.sigmoid(self._level + self.behavior.return_weight * population.satisfaction)
        rows = torch.stack((visits, visits & again), 1).flatten().nonzero().squeeze(1)
        users, numbers = rows // MAX_SESSIONS, rows % MAX_SESSIONS
        time = self.first_time + day * DAY_MS + (time_of_day(clock).flatten()[rows] * DAY_MS).long()
        order = self.world.popular_items(self.world_config.days + config.warmup_days + day)
        candidates = order[_distinct(ranks.view(cells, config.candidates)[rows], item.size)]
        columns = {"hour": hour_of(time)} | {name: column[rows] for name, column in context.items()}
        flat = {name: column.repeat_interleave(config.candidates) for name, column in columns.items()}
        flat |= {"user_id": users.repeat_interleave(config.candidates), "item_id": candidates.flatten()}
        chance = self.world.probabilities(flat, population.world)
        chance = chance.view(*candidates.shape, chance.shape[1])  # also where nobody visits
        return Sessions(day, users, numbers, time, columns, candidates, chance, luck[rows])

    def _respond(self, sessions: Sessions, positions: Tensor, population: Population) -> Visits:
        """Let the users see their lists and move on; ``positions`` are those of the shown items, best first."""
        items = sessions.candidates.gather(1, positions)
        luck = sessions.luck.gather(1, positions)
        clicks, likes = (luck < sessions.chance[..., task].gather(1, positions) for task in (0, 1))
        similarity, worth = self._worth(items, clicks, likes)
        z = (worth - self._average) / self._spread
        users, sums = sessions.user, torch.zeros((2, self.config.users))
        sums[0].index_add_(0, users, z)
        sums[1].index_add_(0, users, torch.ones_like(z))
        seen = sums[1] > 0
        old, memory = population.satisfaction[seen], self.behavior.memory
        population.satisfaction[seen] = memory * old + (1 - memory) * sums[0, seen] / sums[1, seen]
        shown = users.repeat_interleave(items.shape[1])
        vectors = self.world.item_vectors[items.flatten()]
        absorb_clicks(population.world.interest, shown, vectors, clicks.flatten())
        day = torch.full_like(users, sessions.day)
        return Visits(day, users, sessions.number, sessions.time, items, clicks, likes, similarity, z, sessions.context)

    def _worth(self, items: Tensor, clicks: Tensor, likes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean pairwise cosine of lists and their worth q."""
        shown = items.shape[1]
        total = self.world.item_vectors[items].sum(1).square().sum(1)
        similarity = (total - shown) / (shown * (shown - 1))
        empty = clicks.float() - likes.float()
        worth = (likes.float() - self.behavior.disappointment * empty).mean(1)
        return similarity, worth - self.behavior.repetition * similarity

    def _random_lists(self) -> tuple[float, float]:
        """Return mean and standard deviation of the worth of random lists on the first day."""
        sessions = self.sessions(-self.config.warmup_days, self.start())
        if len(sessions) < 2:
            raise UnimixerError(
                f"users={self.config.users}: {len(sessions)} visit on the first day; simulate more users or raise "
                "behavior.activity"
            )
        positions = RandomRanker(self.config.seed).rank(sessions, self.config.shown)
        luck = sessions.luck.gather(1, positions)
        clicks, likes = (luck < sessions.chance[..., task].gather(1, positions) for task in (0, 1))
        _, worth = self._worth(sessions.candidates.gather(1, positions), clicks, likes)
        return float(worth.mean()), max(float(worth.std()), 1e-6)

    def _generator(self, day: int) -> Generator:
        return Generator().manual_seed((self.config.seed << 20) + self.config.warmup_days + day + 2)


def world_config(options: Mapping[str, Any], users: int) -> WorldConfig:
    """Read the options of a world as ``unimixer data prepare synthetic`` takes them; it has ``users`` by default.

    Raises:
        UnimixerError: an option is unknown or out of its range.
    """
    known = {name.removeprefix("num_"): name for name in WorldConfig.__dataclass_fields__}
    full = {known.get(name, name): value for name, value in options.items()}
    for name in full:
        if name not in WorldConfig.__dataclass_fields__:
            raise unknown("option of the world", name, known)
    return WorldConfig(**{"num_users": users, **full})


def _distinct(ranks: Tensor, size: int) -> Tensor:
    """Move equal ranks of a row to the next free ones, so that no item stands twice in a list."""
    steps = torch.arange(ranks.shape[1])
    spread = (ranks.sort(dim=1).values - steps).cummax(1).values + steps
    return torch.minimum(spread, size - ranks.shape[1] + steps)
