"""The wide world: hundreds of categorical fields in groups, and blocks of impressions that are independent draws."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Iteration
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unimixer.data.synthetic.config import TASKS, WorldConfig
from unimixer.data.synthetic.draws import DAY_MS
from unimixer.data.synthetic.fields import world_fields
from unimixer.data.synthetic.teacher import calibrate, draw_biases, draw_weights, unit_power
from unimixer.data.synthetic.world import BLOCK_ROWS, outcomes
from unimixer.errors import UnimixerError

ENTITIES = 100_000
"""Users, and items, of a wide world whose numbers are not given."""
FIRST_DAY = date(2025, 1, 1)
FIRST_DAY_MS = 1_735_689_600_000
""":data:`FIRST_DAY`, midnight UTC."""
CALIBRATION_BLOCKS = 8
TERMS_AT_ONCE = 8
"""Interactions whose products are made together: few enough to stay in the cache."""

SERIAL = 32_768
"""Numbers that torch works on with one thread; blocks, and not operations, are shared among threads."""

Item = TypeVar("Item")

Term = tuple[int, ...]
"""Positions of the fields of an interaction."""


@dataclass(frozen=True)
class WideRules:
    """The true logit of a wide world: biases, and interactions of two to four fields.

    Shape:
        - table: ``(fields, k + tasks, ids)``, latent vectors and biases
        - weights: ``(2, interactions, k, tasks)``, at the start of the log and a quarter turn later
        - gains: ``(4, tasks)``; intercepts: ``(tasks,)``
    """

    table: Tensor
    interactions: tuple[tuple[Term, ...], ...]
    """Pairs, triples, quads."""
    weights: Tensor
    gains: Tensor
    intercepts: Tensor
    drift: float

    def components(self, ids: Tensor, progress: float) -> Tensor:
        """Return the raw parts of the logit ``(4, B, tasks)`` of ids ``(fields, B)``."""
        angle = self.drift * progress
        weights = (math.cos(angle) * self.weights[0] + math.sin(angle) * self.weights[1]).permute(2, 0, 1)
        rows = SERIAL // self.table.shape[1]
        return torch.cat([self._parts(some, weights.contiguous()) for some in torch.split(ids, rows, 1)], 2).transpose(
            1, 2
        )

    def _parts(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Return the parts ``(4, tasks, B)`` of a few rows, with weights ``(tasks, interactions, k)``."""
        rows, tasks, width = ids.shape[1], len(weights), weights.shape[2]
        looked_up = torch.stack([table.index_select(1, column) for table, column in zip(self.table, ids, strict=True)])
        vectors = looked_up[:, :width].unbind(0)
        parts = torch.zeros(4, tasks, rows, device=ids.device)
        torch.sum(looked_up[:, width:], 0, out=parts[0])
        products = torch.empty(TERMS_AT_ONCE, width, rows, device=ids.device)
        first = 0
        for terms, part in zip(self.interactions, parts[1:], strict=True):
            for start in range(0, len(terms), TERMS_AT_ONCE):
                taken = terms[start : start + TERMS_AT_ONCE]
                for product, term in zip(products, taken, strict=False):
                    torch.mul(vectors[term[0]], vectors[term[1]], out=product)
                    for position in term[2:]:
                        product.mul_(vectors[position])
                last = first + len(taken)
                part.addmm_(weights[:, first:last].flatten(1), products[: len(taken)].flatten(0, 1))
                first = last
        return parts

    def probabilities(self, ids: Tensor, progress: float) -> Tensor:
        """Return the true probabilities ``(B, tasks)``; a like needs a click, hence the product."""
        logits = (self.components(ids, progress) * self.gains[:, None]).sum(0) + self.intercepts
        return torch.sigmoid(logits).cumprod(1)


class WideWorld:
    """A world of many fields: the instrument for what a model makes of interactions.

    Users and items have keys and fields, as every impression has its context. All fields have equally many ids. Keys
    are no inputs. Every block is drawn from its number alone, so any block can be drawn by itself, and blocks go on
    after the log without end. The first days train, the last but one validates, the last tests.

    Example:
        >>> world = WideWorld(WorldConfig(num_rows=1_000, num_fields=8, num_groups=4, interacting_pairs=2, num_pairs=4))
        >>> world.groups[0], len(world.interacting_groups)
        (('user_0', 'user_1'), 2)
    """

    def __init__(self, config: WorldConfig, device: torch.device | str = "cpu") -> None:
        assert config.num_fields is not None
        self.config, self.device, self.fields = config, torch.device(device), world_fields(config)
        generator = Generator().manual_seed(config.seed)
        self.interacting_groups = draw_pairs(config, generator)
        """The pairs of groups that interactions join; empty where the fields have no groups."""
        interactions = draw_interactions(config, self.interacting_groups, generator)
        count, width, ids = len(self.fields), config.latent_dim, config.num_ids
        latents = unit_power(torch.randn(count, ids, width, generator=generator))
        biases = draw_biases(count * ids, generator).view(count, ids, len(TASKS))
        weights = draw_weights(sum(map(len, interactions)), width, generator)
        table = torch.cat((latents, biases), 2).transpose(1, 2).contiguous()
        sizes = {"user": config.num_users or ENTITIES, "item": config.num_items or ENTITIES}
        self._ids = {d: self._draw_ids(d, size, generator) for d, size in sizes.items()}
        raw = WideRules(table, interactions, weights, torch.ones(4, len(TASKS)), torch.zeros(2), config.total_drift)
        sample = [
            raw.components(self._draw(BLOCK_ROWS, generator)[0], number / CALIBRATION_BLOCKS)
            for number in range(CALIBRATION_BLOCKS)
        ]
        gains, intercepts = calibrate(F.pad(torch.cat(sample, 1), (0, 0, 0, 0, 0, 1)), config)
        kept = len(config.tasks)
        self._rules = WideRules(
            table[:, : width + kept].to(self.device),
            interactions,
            weights[..., :kept].to(self.device),
            gains[:4, :kept].to(self.device),
            intercepts[:kept].to(self.device),
            config.total_drift,
        )
        self._ids = {domain: columns.to(self.device) for domain, columns in self._ids.items()}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the fields of every group."""
        names = [field.name for field in self.fields]
        size = len(names) // (self.config.num_groups or len(names))
        return tuple(tuple(names[first : first + size]) for first in range(0, len(names), size))

    @property
    def interactions(self) -> tuple[tuple[str, ...], ...]:
        """Names of the fields of every interaction."""
        return tuple(tuple(self.fields[p].name for p in term) for terms in self._rules.interactions for term in terms)

    def users(self) -> dict[str, Tensor]:
        """Return one row per user, ids as int64."""
        return self._entities("user")

    def items(self) -> dict[str, Tensor]:
        """Return one row per item."""
        return self._entities("item")

    def impressions(self) -> Iterator[dict[str, Tensor]]:
        """Start a pass over the log in the order of time, in blocks of :data:`BLOCK_ROWS` rows."""
        blocks = range(-(-self.config.num_rows // BLOCK_ROWS))
        for number, block in zip(blocks, in_threads(self.block, blocks, torch.get_num_threads()), strict=True):
            rows = self.config.num_rows - number * BLOCK_ROWS
            yield {name: column[:rows] for name, column in block.items()}

    def block(self, number: int) -> dict[str, Tensor]:
        """Draw block ``number`` of the log, or of what comes after it.

        Returns:
            ``user_id``, ``item_id``, ``time`` (ms), the context, the labels (0 and 1) and their true probabilities.
        """
        # a generator on the CPU keeps 32 bits of its seed
        generator = Generator(self.device).manual_seed((self.config.seed * 0x9E3779B9 + 1 + number) % (1 << 32))
        first = number * BLOCK_ROWS
        ids, users, items = self._draw(BLOCK_ROWS, generator)
        probability = self._rules.probabilities(ids, min(1.0, first / self.config.num_rows))
        chance = torch.rand(BLOCK_ROWS, 1, generator=generator, device=self.device)
        context = {f.name: column for f, column in zip(self.fields, ids, strict=True) if f.domain == "context"}
        block = {"user_id": users, "item_id": items, "time": self._times(first)} | context
        return block | outcomes(chance < probability, probability, self.config)

    def _draw(self, rows: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ids ``(fields, rows)`` with the users and items ``(rows,)`` that they belong to."""
        of_user, of_item = self._ids["user"], self._ids["item"]
        device = generator.device
        users = torch.randint(of_user.shape[1], (rows,), generator=generator, device=device)
        items = torch.randint(of_item.shape[1], (rows,), generator=generator, device=device)
        context = self._draw_ids("context", rows, generator)
        return torch.cat((of_user[:, users], of_item[:, items], context)), users, items

    def _draw_ids(self, domain: str, rows: int, generator: Generator) -> Tensor:
        """Draw ids of all fields of a domain ``(fields, rows)``."""
        size, exponent = self.config.num_ids, self.config.id_exponent
        shape = (sum(field.domain == domain for field in self.fields), rows)
        if exponent == 0:
            return torch.randint(size, shape, generator=generator, device=generator.device)
        reached = torch.arange(1, size + 1, dtype=torch.float64, device=generator.device).pow(-exponent).cumsum(0)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return torch.searchsorted(reached, uniform * reached[-1], right=True).clamp_(max=size - 1)

    def _times(self, first: int) -> Tensor:
        """Return the times of a block; rows after the log lie in the days that train."""
        train, validation, test = self.config.part_rows
        row = torch.arange(first, first + BLOCK_ROWS, device=self.device, dtype=torch.float64)
        row = torch.where(row < self.config.num_rows, row, row % train)
        days = row * (self.config.days - 2) / train
        days = torch.where(row < train, days, self.config.days - 2 + (row - train) / validation)
        days = torch.where(row < train + validation, days, self.config.days - 1 + (row - train - validation) / test)
        return FIRST_DAY_MS + (days * DAY_MS).long()

    def _entities(self, domain: str) -> dict[str, Tensor]:
        columns, names = self._ids[domain], [f.name for f in self.fields if f.domain == domain]
        return {f"{domain}_id": torch.arange(columns.shape[1]), **dict(zip(names, columns, strict=True))}


def in_threads(function: Callable[[int], Item], numbers: Iterable[int], threads: int) -> Iteration[Item, None, None]:
    """Yield the function's values in order; threads work them out ahead."""
    with ThreadPoolExecutor(threads, thread_name_prefix="unimixer-world") as pool:
        ahead: deque[Future[Item]] = deque()
        try:
            for number in numbers:
                ahead.append(pool.submit(function, number))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def day(number: int) -> date:
    """Return a day of a wide world's log, counted from 0."""
    return FIRST_DAY + timedelta(days=number)


def draw_pairs(config: WorldConfig, generator: Generator) -> tuple[tuple[int, int], ...]:
    """Draw the pairs of groups that interact, in ascending order; none where the fields have no groups."""
    wanted: Any = config.interacting_pairs
    if config.num_groups is None:
        return ()
    if not isinstance(wanted, int):
        return tuple(wanted)
    pairs = list(combinations(range(config.num_groups), 2))
    drawn = torch.randperm(len(pairs), generator=generator)[:wanted]
    return tuple(pairs[number] for number in sorted(drawn.tolist()))


def draw_interactions(
    config: WorldConfig, pairs: tuple[tuple[int, int], ...], generator: Generator
) -> tuple[tuple[Term, ...], ...]:
    """Draw different sets of two, three and four fields.

    The interacting pairs of groups take turns, so that all get equally many; a set has fields of both groups.

    Raises:
        UnimixerError: there are not so many different sets.
    """
    assert config.num_fields is not None
    size = config.num_fields // (config.num_groups or config.num_fields)
    drawn, turn = [], 0
    shuffled = [pairs[number] for number in torch.randperm(len(pairs), generator=generator).tolist()]
    for order, name in ((2, "num_pairs"), (3, "num_triples"), (4, "num_quads")):
        count = getattr(config, name)
        choices = (
            math.comb(2 * size, order) - 2 * math.comb(size, order) if pairs else math.comb(config.num_fields, order)
        )
        if count > choices * max(1, len(pairs)):
            raise UnimixerError(
                f"{name}={count}: there are {choices * max(1, len(pairs))} different sets of {order} fields; "
                f"lower {name}, or let more fields interact"
            )
        terms: dict[Term, None] = {}
        while len(terms) < count:
            pair = shuffled[turn % len(shuffled)] if pairs else None
            term = _draw_term(pair, size, order, config.num_fields, generator)
            turn += term not in terms
            terms[term] = None
        drawn.append(tuple(terms))
    return tuple(drawn)


def _draw_term(pair: tuple[int, int] | None, size: int, order: int, num_fields: int, generator: Generator) -> Term:
    """Draw a set of fields from both groups of a pair, or from all fields."""
    if pair is None:
        return tuple(sorted(torch.randperm(num_fields, generator=generator)[:order].tolist()))
    offered = [group * size + position for group in pair for position in range(size)]
    while True:
        term = tuple(sorted(offered[p] for p in torch.randperm(2 * size, generator=generator)[:order].tolist()))
        if term and {position // size for position in term} == set(pair):
            return term
