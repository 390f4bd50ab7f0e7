"""Embedding tables that TorchRec shards over processes; they replace the tables of a single process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.features.batch import Batch
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.managed import ManagedTables
from unimixer.ranker import PACKED, Ranker
from unimixer.training.config import Recipe
from unimixer.training.consolidate import first_packed_rows
from unimixer.training.distributed.embedding_kernels import build_collections, build_optimizer
from unimixer.training.distributed.layout import TableLayout, distinct_rows
from unimixer.training.process_group import ProcessGroup, quietly

DRAWN_ROWS = 65_536
"""Rows that are drawn together."""


class ShardedTables(nn.Module):
    """Tables of any widths, one ``EmbeddingCollection`` per width; each rank owns a part of the rows or columns.

    A step looks up all of its batches in one exchange, :meth:`once`, and sends all of their gradients back in another:
    tables are updated once a step, however many batches it accumulates. Gradients are summed over processes and not
    averaged, because the loss is divided by the weight of the whole batch already.

    Args:
        plain: the tables to replace; they may be on ``meta``.
        layout: their shapes and fields.
        managed: maps of the tables that have fewer rows than ids.
        recipe: resolved.
        processes: the processes of the run.
    """

    def __init__(
        self,
        plain: EmbeddingTables,
        layout: TableLayout,
        managed: ManagedTables,
        recipe: Recipe,
        processes: ProcessGroup,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.width, self.init_std = plain.num_embeddings, plain.width, plain.init_std
        self.layout, self.processes = layout, processes
        self._managed = (managed,)  # in a tuple, because its weights belong to the embedding and not to this module
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # TorchRec calls it in every lookup
        with quietly():
            self.collections = build_collections(layout, recipe, processes)
            self.optimizer = build_optimizer(self.collections, recipe.optimizer, layout.device)
            self.weights = self._weights()
        self.draw(recipe.training.seed)
        self._ready: dict[int, dict[str, Tensor]] = {}

    def _weights(self) -> dict[str, Any]:
        """Find TorchRec's sharded tensor of every table."""
        states = {key: value for module in self.collections.values() for key, value in module.state_dict().items()}
        keys = {name: f"embeddings.{alias}.weight" for name, alias in self.layout.aliases.items()}
        return {name: states[key] for name, key in keys.items() if key in states}

    # ---- lookups ----

    def vectors(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return vectors by field; outside :meth:`once` all processes look up a batch together."""
        ready = self._ready.get(id(batch))
        if ready is not None:
            return ready
        return {name: parts[0] for name, parts in self.layout.split(self.look_up([batch]), [batch]).items()}

    def look_up(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Look up several batches, one after the other; return vectors by field, with their graph.

        A row that the batches read many times is asked for once, and its gradients are summed before they are sent.
        """
        from torchrec import KeyedJaggedTensor

        vectors: dict[str, Tensor] = {}
        owned = [self._managed[0](batch) for batch in batches]
        for width, columns in self.layout.columns.items():
            rows, places = distinct_rows(columns, owned)
            keys, counts = [self.layout.aliases[table] for table in rows], [len(met) for met in rows.values()]
            values = torch.cat(list(rows.values()))
            lengths = torch.tensor(counts, device=values.device)
            looked_up = self.collections[str(width)](KeyedJaggedTensor(keys, values, lengths=lengths)).wait()
            by_table = dict(zip(rows, (looked_up[key].values() for key in keys), strict=True))
            vectors |= {c.field: F.embedding(places[c.field], by_table[c.table]) for c in columns}
        return vectors

    @contextmanager
    def once(self, batches: Sequence[Batch], step: int = 0) -> Iterator[None]:
        """Let the batches be embedded and their losses be differentiated inside; update the tables at the end.

        Args:
            batches: all batches of a step, in the order in which they are used.
            step: number of the step, from 0, by which Adam corrects its averages.
        """
        learns = torch.is_grad_enabled()
        if learns:
            self.optimizer.at_step(step)
        whole = self.look_up(batches)
        split = self.layout.split(whole, batches)
        leaves = {name: [part.detach().requires_grad_(learns) for part in parts] for name, parts in split.items()}
        self._ready = {id(b): {name: parts[i] for name, parts in leaves.items()} for i, b in enumerate(batches)}
        try:
            yield
        finally:
            self._ready = {}
        if learns:
            gradients = [torch.cat([_gradient(leaf) for leaf in leaves[name]]) for name in whole]
            torch.autograd.backward(list(whole.values()), gradients)

    # ---- parts of tables ----

    def local_shards(self) -> Iterator[tuple[str, tuple[int, int], Tensor]]:
        """Yield the parts of this rank: table, first row and column, and the numbers in the memory of the table."""
        for name, weight in self.weights.items():
            for shard in weight.local_shards():
                first_row, first_column = shard.metadata.shard_offsets
                yield name, (first_row, first_column), shard.tensor

    def tensors(self, *, optimizer: bool) -> dict[str, Any]:
        """Return sharded tensors by table and name: weights, and the states of the optimizer if asked."""
        tensors = {f"{name}.weight": weight for name, weight in self.weights.items()}
        if optimizer:
            aliases = self.layout.aliases
            states = self.optimizer.states({aliases[name]: weight for name, weight in self.weights.items()})
            for name, alias in aliases.items():
                tensors |= {f"{name}.{state}": tensor for state, tensor in states.get(alias, {}).items()}
        return tensors

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Draw all rows from N(0, init_std^2) as a function of seed, table and row: the same under every plan."""
        numbers = {name: number for number, name in enumerate(self.num_embeddings)}
        for name, (first, column), shard in self.local_shards():
            width, last = self.width[name], first + len(shard)
            for block in range(first // DRAWN_ROWS, -(-last // DRAWN_ROWS)):
                begin = block * DRAWN_ROWS
                low, high = max(first, begin), min(last, begin + DRAWN_ROWS)
                shape = (min(DRAWN_ROWS, self.num_embeddings[name] - begin), width)
                drawn = np.random.default_rng((seed, numbers[name], block)).standard_normal(shape, dtype=np.float32)
                part = torch.from_numpy(drawn)[low - begin : high - begin]
                shard[low - first : high - first].copy_(part[:, column : column + shard.shape[1]] * self.init_std)

    @torch.no_grad()
    def load_packed(self, packed: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None) -> None:
        """Copy this rank's part out of the weights of a single process, one matrix per width.

        Args:
            packed: the weights by their names.
            states: those of the optimizer, by the number of the matrix and the name of the state.
        """
        starts = first_packed_rows(self.num_embeddings, self.width)
        numbers = {width: number for number, width in enumerate(sorted(set(self.width.values())))}
        for key, tensor in self.tensors(optimizer=states is not None).items():
            name, _, kind = key.rpartition(".")
            width = self.width[name]
            weight = kind == "weight"
            whole = packed[PACKED.format(width=width)] if weight else (states or {}).get(f"{numbers[width]}.{kind}")
            if whole is None:
                continue
            for shard in tensor.local_shards():
                first, column = (*shard.metadata.shard_offsets, 0)[:2]
                begin, part = starts[name] + first, shard.tensor
                own = whole[begin : begin + len(part)]
                part.copy_(own if own.dim() == 1 else own[:, column : column + part.shape[1]])

    @torch.no_grad()
    def reset_rows(self, table: str, rows: Tensor, vectors: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Give some rows of a table new vectors and clear their optimizer state, each process in its own part."""
        assert optimizer is self.optimizer
        for name, tensor in self.tensors(optimizer=True).items():
            if name.rpartition(".")[0] != table:
                continue
            for shard in tensor.local_shards():
                first, column = (*shard.metadata.shard_offsets, 0)[:2]
                mine = (rows >= first) & (rows < first + len(shard.tensor))
                local = (rows[mine] - first).to(shard.tensor.device)
                if name == f"{table}.weight":
                    part = vectors[mine][:, column : column + shard.tensor.shape[1]]
                    shard.tensor[local] = part.to(shard.tensor.device)
                else:
                    shard.tensor[local] = 0


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def shard_tables(model: Ranker, recipe: Recipe, *, processes: ProcessGroup, device: torch.device) -> ShardedTables:
    """Replace a model's tables by sharded ones and move the rest to the device."""
    plain, embedding = model.embedding.tables, model.embedding
    del embedding.tables
    model.to(device)
    layout = TableLayout.of(plain, model.spec, recipe.optimizer.sparse, device)
    with quietly():
        sharded = ShardedTables(plain, layout, embedding.managed, recipe, processes)
    embedding.tables = sharded  # type: ignore[assignment]
    return sharded
