"""Embedding tables cut over processes by TorchRec, in the place of those of one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.features.batch import Batch
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.managed import ManagedTables
from unimixer.features.spec import FeatureSpec
from unimixer.ranker import Ranker
from unimixer.training.config import Recipe
from unimixer.training.distributed.embedding_kernels import build_collections, build_optimizer
from unimixer.training.distributed.lookups import Columns, columns_of, jagged, split_by_batch
from unimixer.training.distributed.plan import quietly
from unimixer.training.distributed.setup import draw_rows
from unimixer.training.process_group import World


class ShardedTables(nn.Module):
    """Tables of any widths, one ``EmbeddingCollection`` a width, each rank with its part of the rows or columns.

    A step looks all of its batches up in one exchange, :meth:`once`, and sends all of their gradients back in one: a
    table moves once a step, however many batches it accumulates. Gradients add up over the processes and are not
    divided by their number, because the loss is divided by the weight of the whole batch already.

    Args:
        plain: the tables to stand for; they may be on ``meta``.
        spec: fields and their tables.
        managed: maps of tables that have fewer rows than ids.
        recipe: resolved.
        world: the processes.
        device: of this process.
    """

    def __init__(
        self,
        plain: EmbeddingTables,
        spec: FeatureSpec,
        recipe: Recipe,
        *,
        managed: ManagedTables,
        world: World,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.width, self.init_std = plain.num_embeddings, plain.width, plain.init_std
        self.aliases = {name: f"table_{number}" for number, name in enumerate(self.num_embeddings)}
        self.columns: dict[int, list[Columns]] = columns_of(spec, self.width)
        self.world, self.device, self.rule = world, device, recipe.optimizer.sparse
        self._managed = (managed,)  # in a tuple: it is the embedding's, and its weights are counted there
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # TorchRec asks it with every lookup
        with quietly():
            self.collections = build_collections(self, recipe)
            self.optimizer = build_optimizer(self, recipe.optimizer)
            self.places = _places(self)
        draw_rows(self, recipe.training.seed)
        self._ready: dict[int, dict[str, Tensor]] = {}

    def vectors(self, batch: Batch) -> Mapping[str, Tensor]:
        """Vectors by field of a batch; outside :meth:`once` they are looked up, which all processes do together."""
        ready = self._ready.get(id(batch))
        if ready is not None:
            return ready
        return {name: pieces[0] for name, pieces in split_by_batch(self, self.look_up([batch]), [batch]).items()}

    def look_up(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Vectors by field of several batches, one after the other, with their graph."""
        found: dict[str, Tensor] = {}
        rows = [self._managed[0](batch) for batch in batches]
        for width, columns in self.columns.items():
            looked_up = self.collections[str(width)](jagged(columns, rows)).wait()
            found |= {column.field: looked_up[column.key].values() for column in columns}
        return found

    @contextmanager
    def once(self, batches: Sequence[Batch], step: int = 0) -> Iterator[None]:
        """Inside, the batches may be embedded and their losses differentiated; at the end the tables move.

        Args:
            batches: all batches of a step, in the order in which they are used.
            step: number of the step, from 0: what Adam corrects its averages by.
        """
        learns = torch.is_grad_enabled()
        if learns:
            self.optimizer.at_step(step)
        whole = self.look_up(batches)
        pieces = split_by_batch(self, whole, batches)
        leaves = {n: [p.detach().requires_grad_(learns) for p in parts] for n, parts in pieces.items()}
        self._ready = {id(b): {n: parts[i] for n, parts in leaves.items()} for i, b in enumerate(batches)}
        try:
            yield
        finally:
            self._ready = {}
        if learns:
            gradients = [torch.cat([_gradient(leaf) for leaf in leaves[name]]) for name in whole]
            torch.autograd.backward(list(whole.values()), gradients)

    def local_shards(self) -> Iterator[tuple[str, tuple[int, int], Tensor]]:
        """What this rank owns: table, first row and first column, and the numbers, in the memory they are used in."""
        for name, place in self.places.items():
            for shard in place.local_shards():
                first_row, first_column = shard.metadata.shard_offsets
                yield name, (first_row, first_column), shard.tensor


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _places(tables: ShardedTables) -> dict[str, Any]:
    """TorchRec's sharded tensor of every table, by the table's own name."""
    found = {}
    for collection in tables.collections.values():
        state = collection.state_dict()
        for name, alias in tables.aliases.items():
            if f"embeddings.{alias}.weight" in state:
                found[name] = state[f"embeddings.{alias}.weight"]
    return {name: found[name] for name in tables.num_embeddings if name in found}


def shard_tables(model: Ranker, recipe: Recipe, *, world: World, device: torch.device) -> ShardedTables:
    """Put sharded tables in the place of a model's own and move the rest to the device."""
    plain = model.embedding.tables
    del model.embedding.tables
    model.to(device)
    with quietly():
        sharded = ShardedTables(plain, model.spec, recipe, managed=model.embedding.managed, world=world, device=device)
    model.embedding.tables = sharded  # type: ignore[assignment]
    return sharded
