"""The world: users, items, what users clicked before the log, and the log as a stream of blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unimixer.data.synthetic.config import WorldConfig
from unimixer.data.synthetic.draws import event_times, hour_of, numbers, zipf
from unimixer.data.synthetic.fields import WorldField, world_fields
from unimixer.data.synthetic.teacher import Teacher, draw_teacher, item_vectors

BLOCK_ROWS = 8_192
"""Rows between two updates of the users' interest."""
MEMORY = 0.9
"""Weight that a user's interest keeps when one more item is clicked (exponential moving average)."""
MAX_SNAPSHOT = 20
"""Longest list of items from before the log."""
CANDIDATES = 6
"""Items of which the one nearest to the user's taste enters the list."""
CALIBRATION_BLOCKS = 24
USERS_AT_ONCE = 8_192
POPULARITY_WAVE = 0.8
"""How far the log frequency of an item rises and sinks."""
TRIM = 0.5
"""Share of the last block's distance from the wanted rate by which the intercept of the next block moves."""
FIXED_POINT = 1 << 20


class Snapshots(NamedTuple):
    """Items from before the log, oldest first: user u has ``values[offsets[u]:offsets[u + 1]]``."""

    values: Tensor
    offsets: Tensor


@dataclass
class WorldState:
    """The users' interest and the rules at one moment of the log; a pass over the log moves them."""

    interest: Tensor
    """``(users, k)``"""
    teacher: Teacher
    progress: float = 0.0
    """Share of the log that has passed."""


class World:
    r"""A simulated recommender whose true probabilities are known.

    A user's interest is the moving average of the vectors of the items clicked so far, begun with the snapshot. It is
    updated between blocks of :data:`BLOCK_ROWS` rows, so a probability depends on the labels of earlier blocks only.
    The intercept b is solved on a sample of the log, and follows, block by block, what the interests make of the rate.

    .. math:: \operatorname{logit} p = b + \sum_f \beta_f + \sum_{(f,g)} \langle w_{fg}, v_f \odot v_g \rangle
        + \text{triples} + \text{quads} + \gamma \langle u_t, q_i \rangle

    Users, items and rules are drawn on the CPU and are the same on every device; the impressions are drawn on
    ``device`` and are equal for equal seeds on equal devices. Memory does not grow with ``num_rows``.

    Example:
        >>> world = World(WorldConfig(num_rows=20_000, num_users=500))
        >>> [len(block["click"]) for block in world.impressions()]
        [8192, 8192, 3616]
    """

    def __init__(self, config: WorldConfig, device: torch.device | str = "cpu") -> None:
        assert config.num_fields is None  # draw_world gives a wide world
        self.config, self.device, self.fields = config, torch.device(device), world_fields(config)
        generator = Generator().manual_seed(config.seed)
        teacher = draw_teacher(config, generator)
        self._tables = {domain: self._draw_entities(domain, generator) for domain in ("user", "item")}
        self._inputs = {domain: self._encode(domain, table) for domain, table in self._tables.items()}
        self._vectors = item_vectors(teacher, config, self._inputs["item"][0])
        self._active = torch.randperm(self._first("user").size, generator=generator)
        self._popularity = _draw_popularity(self._first("item"), generator)
        self._snapshots, self._interest = self._draw_snapshots(generator)
        sample = [
            teacher.components(*self._look_up(self._expose(first, BLOCK_ROWS, generator), self._interest), progress)
            for progress, first in _spread(config.num_rows)
        ]
        self._teacher = teacher.calibrated(torch.cat(sample, 1), config)
        self._move()

    def users(self) -> dict[str, Tensor]:
        """Return one row per user: ids as int64, numbers as float32 with NaN where missing."""
        return dict(self._tables["user"])

    def items(self) -> dict[str, Tensor]:
        """Return one row per item."""
        return dict(self._tables["item"])

    def snapshots(self) -> Snapshots:
        """Return the items that users clicked before the log."""
        return self._snapshots

    @property
    def item_vectors(self) -> Tensor:
        """The unit vectors ``(items, k)`` that interest is about."""
        return self._vectors

    def popular_items(self, day: int) -> Tensor:
        """Return the items from the most to the least popular of a day."""
        return self._popularity.order(day)

    def start(self) -> WorldState:
        """Return the state before the log."""
        return WorldState(self._interest.clone(), self._teacher)

    def end(self) -> WorldState:
        """Return the state after the log, whose impressions are drawn for it."""
        state = self.start()
        for _ in self.impressions(state):
            pass
        state.progress = 1.0
        return state

    def probabilities(self, columns: dict[str, Tensor], state: WorldState) -> Tensor:
        """Return the true probabilities ``(B, tasks)`` of impressions: ``user_id``, ``item_id`` and the context."""
        return state.teacher.probabilities(*self._look_up(columns, state.interest), state.progress)

    def impressions(self, state: WorldState | None = None) -> Iterator[dict[str, Tensor]]:
        """Start a pass over the log in the order of time, in blocks of :data:`BLOCK_ROWS` rows.

        Args:
            state: to move along (default: one of its own, from :meth:`start`).

        Yields:
            ``user_id``, ``item_id``, ``time`` (ms), the context, ``click``, ``like`` (0 and 1), and the true
            ``click_probability`` and ``like_probability``.
        """
        generator = Generator(self.device).manual_seed(self.config.seed + 1)
        state = state or self.start()
        rates = torch.tensor(self.config.rates, device=self.device)
        for first in range(0, self.config.num_rows, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, self.config.num_rows - first)
            block = self._expose(first, rows, generator)
            state.progress = first / self.config.num_rows
            probability = self.probabilities(block, state)
            state.teacher = state.teacher.trimmed(TRIM * (rates.logit() - probability.mean(0).logit()))
            chance = torch.rand(rows, generator=generator, device=self.device)
            click, like = (chance < probability[:, task] for task in range(2))
            absorb_clicks(state.interest, block["user_id"], self._vectors[block["item_id"]], click)
            yield block | outcomes(torch.stack((click, like), 1), probability, self.config)

    def _expose(self, first: int, rows: int, generator: Generator) -> dict[str, Tensor]:
        """Draw users, items, times and contexts of impressions."""
        config, user, item = self.config, self._first("user"), self._first("item")
        time = event_times(first, rows, config.num_rows, config.days, generator)
        order = self._popularity.order(first * config.days // config.num_rows)
        block = {
            "user_id": self._active[zipf(rows, user.size, user.exponent, generator)],
            "item_id": order[zipf(rows, item.size, item.exponent, generator)],
            "time": time,
            "hour": hour_of(time),
        }
        for field in self._of("context")[1:]:
            block[field.name] = zipf(rows, field.size, field.exponent, generator)
        return block

    def _look_up(self, block: dict[str, Tensor], interest: Tensor) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
        """Return the inputs of the teacher for a block: fields by domain, and the product of interest and item."""
        user, item = block["user_id"], block["item_id"]
        inputs = {"context": self._encode("context", block)}
        for domain, rows in (("user", user), ("item", item)):
            ids, normals = self._inputs[domain]
            inputs[domain] = (ids[:, rows], normals[:, rows])
        return inputs, F.normalize(interest[user], dim=-1) * self._vectors[item]

    def _encode(self, domain: str, columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return ids ``(categorical fields, rows)`` and normal scores ``(numeric fields, rows)``."""
        ids = [columns[f.name] for f in self._of(domain) if not f.numeric]
        normals = [(columns[f.name].log() - f.log_mean) / f.log_std for f in self._of(domain) if f.numeric]
        return torch.stack(ids), torch.stack(normals) if normals else ids[0].new_empty((0, len(ids[0]))).float()

    def _draw_entities(self, domain: str, generator: Generator) -> dict[str, Tensor]:
        key, *others = self._of(domain)
        table = {key.name: torch.arange(key.size)}
        for field in others:
            table[field.name] = (
                numbers(key.size, field, generator)
                if field.numeric
                else zipf(key.size, field.size, field.exponent, generator)
            )
        return table

    def _draw_snapshots(self, generator: Generator) -> tuple[Snapshots, Tensor]:
        """Draw up to :data:`MAX_SNAPSHOT` items to each user's taste, and the interest that follows from them."""
        item, order = self._first("item"), self._popularity.order(0)
        values, lengths, interests = [], [], []
        for users in torch.split(torch.arange(self._first("user").size), USERS_AT_ONCE):
            taste = torch.randn(len(users), 1, self.config.latent_dim, generator=generator)
            length = torch.randint(0, MAX_SNAPSHOT + 1, (len(users),), generator=generator)
            interest = torch.zeros(len(users), self.config.latent_dim)
            picked = torch.empty(len(users), MAX_SNAPSHOT, dtype=torch.int64)
            for position in range(MAX_SNAPSHOT):
                offered = order[zipf(len(users) * CANDIDATES, item.size, item.exponent, generator)]
                offered = offered.view(len(users), CANDIDATES)
                best = (self._vectors[offered] * taste).sum(-1).argmax(1, keepdim=True)
                picked[:, position] = offered.gather(1, best).squeeze(1)
                rows = (position < length).nonzero().squeeze(1)
                absorb_clicks(interest, rows, self._vectors[picked[rows, position]], torch.ones_like(rows).bool())
            values.append(picked[torch.arange(MAX_SNAPSHOT) < length[:, None]])
            lengths.append(length)
            interests.append(interest)
        offsets = torch.cat((torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)))
        return Snapshots(torch.cat(values), offsets), torch.cat(interests)

    def _of(self, domain: str) -> list[WorldField]:
        return [f for f in self.fields if f.domain == domain]

    def _first(self, domain: str) -> WorldField:
        return self._of(domain)[0]

    def _move(self) -> None:
        device = self.device
        self._tables = {d: {n: column.to(device) for n, column in t.items()} for d, t in self._tables.items()}
        self._inputs = {d: (ids.to(device), normals.to(device)) for d, (ids, normals) in self._inputs.items()}
        self._vectors, self._active = self._vectors.to(device), self._active.to(device)
        self._popularity, self._interest = self._popularity.to(device), self._interest.to(device)
        self._snapshots = Snapshots(*(part.to(device) for part in self._snapshots))
        self._teacher = self._teacher.to(device)


@dataclass
class Popularity:
    """Popularity of items by day: a power law over ranks, in which every item rises and sinks."""

    base: Tensor
    """``(items,)``, log frequency over a long time."""
    period: Tensor
    """``(items,)``, days of one wave."""
    phase: Tensor
    day: int = -1
    today: Tensor | None = None

    def order(self, day: int) -> Tensor:
        """Return the items from the most to the least popular of the day."""
        if self.today is None or day != self.day:
            waves = POPULARITY_WAVE * torch.sin(self.phase + math.tau * day / self.period)
            self.day, self.today = day, torch.argsort(self.base + waves, descending=True, stable=True)
        return self.today

    def to(self, device: torch.device) -> Popularity:
        """Return the same on a device."""
        return Popularity(self.base.to(device), self.period.to(device), self.phase.to(device))


def _draw_popularity(item: WorldField, generator: Generator) -> Popularity:
    rank = torch.randperm(item.size, generator=generator) + 1.0
    period, phase = torch.rand((2, item.size), generator=generator)
    return Popularity(-item.exponent * rank.log(), 10 + 30 * period, math.tau * phase)


def outcomes(drawn: Tensor, probability: Tensor, config: WorldConfig) -> dict[str, Tensor]:
    """Name the drawn labels and the true probabilities ``(B, tasks)`` of the world's tasks."""
    labels = {task: drawn[:, number].to(torch.uint8) for number, task in enumerate(config.tasks)}
    return labels | {f"{task}_probability": probability[:, number] for number, task in enumerate(config.tasks)}


def absorb_clicks(interest: Tensor, users: Tensor, vectors: Tensor, clicks: Tensor) -> None:
    r"""Move the interest of the users who clicked towards what they clicked, in place.

    .. math:: u \leftarrow m^c u + (1 - m^c) \, \bar q

    with c clicks of the user in the block, their mean vector and m = :data:`MEMORY`; their order within the block is
    not looked at. Sums are taken over fixed-point integers, so they are the same in any order, on a GPU too.

    Shape:
        - interest: ``(users, k)``; users, clicks: ``(B,)``; vectors: ``(B, k)``
    """
    touched, row = torch.unique(users[clicks], return_inverse=True)
    fixed = (vectors[clicks] * FIXED_POINT).round().long()
    sums = torch.zeros(len(touched), vectors.shape[1], dtype=torch.int64, device=users.device).index_add_(0, row, fixed)
    counts = torch.zeros(len(touched), dtype=torch.int64, device=users.device).index_add_(0, row, torch.ones_like(row))
    mean = sums.float() / (counts[:, None] * FIXED_POINT)
    kept = (MEMORY ** counts.float())[:, None]
    interest[touched] = kept * interest[touched] + (1 - kept) * mean


def _spread(num_rows: int) -> list[tuple[float, int]]:
    """Return points of the log for the calibration: their progress and their row."""
    return [(k / CALIBRATION_BLOCKS, num_rows * k // CALIBRATION_BLOCKS) for k in range(CALIBRATION_BLOCKS)]
