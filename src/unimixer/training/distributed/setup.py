"""The first numbers of sharded tables, which do not depend on how they are cut, and weights from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unimixer.ranker import PACKED, TABLES, Ranker
from unimixer.training.config import Recipe
from unimixer.training.distributed.sharded_dense import shard_dense
from unimixer.training.process_group import World
from unimixer.training.warm_start import WarmStart

if TYPE_CHECKING:
    from unimixer.training.distributed.tables import ShardedTables

DRAWN_ROWS = 65_536
"""Rows that are drawn together."""


@torch.no_grad()
def draw_rows(tables: ShardedTables, seed: int) -> None:
    """Draw all rows from N(0, init_std^2) as a function of seed, table and row: the same under every plan."""
    numbers = {name: number for number, name in enumerate(tables.num_embeddings)}
    for name, (first, column), shard in tables.local_shards():
        width, last = tables.width[name], first + len(shard)
        for block in range(first // DRAWN_ROWS, -(-last // DRAWN_ROWS)):
            low, high = max(first, block * DRAWN_ROWS), min(last, (block + 1) * DRAWN_ROWS)
            rows = min(DRAWN_ROWS, tables.num_embeddings[name] - block * DRAWN_ROWS)
            drawn = np.random.default_rng((seed, numbers[name], block)).standard_normal((rows, width), dtype=np.float32)
            part = torch.from_numpy(drawn)[low - block * DRAWN_ROWS : high - block * DRAWN_ROWS]
            shard[low - first : high - first].copy_(part[:, column : column + shard.shape[1]] * tables.init_std)


def warm_start_sharded(
    model: Ranker, recipe: Recipe, start: WarmStart | None, *, world: World, device: torch.device
) -> None:
    """Cut the tables of a model whose own are on ``meta``, and begin from the weights of a run if there is one.

    A process holds all tables of that run for a moment, and all dense parameters until they are cut, where the recipe
    says so.
    """
    from unimixer.training.distributed.tables import shard_tables

    if start is not None:
        rest = {name: tensor for name, tensor in start.state(model).items() if not name.startswith(TABLES)}
        model.load_state_dict(rest, strict=False)
    sharded = shard_tables(model, recipe, world=world, device=device)
    if start is not None:
        for table, (first, column), shard in sharded.local_shards():
            start.fill(table, shard, first, column)
    if recipe.distributed.dense == "fsdp" and world.size > 1:
        shard_dense(model, world=world, device=device)


@torch.no_grad()
def take_rows(tables: ShardedTables, packed: Mapping[str, Tensor]) -> None:
    """Copy this rank's part out of the weights of one machine, one matrix a width."""
    starts = first_rows(tables.num_embeddings, tables.width)
    for name, (first, column), shard in tables.local_shards():
        whole = packed[PACKED.format(width=tables.width[name])]
        begin = starts[name] + first
        shard.copy_(whole[begin : begin + len(shard), column : column + shard.shape[1]])


def first_rows(num_embeddings: Mapping[str, int], width: Mapping[str, int]) -> dict[str, int]:
    """First row of every table in the weight of its width."""
    found, totals = {}, dict.fromkeys(width.values(), 0)
    for name, rows in num_embeddings.items():
        found[name] = totals[width[name]]
        totals[width[name]] += rows
    return found
