"""Batches to TorchRec's jagged tensors and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec

if TYPE_CHECKING:
    from unimixer.training.distributed.tables import ShardedTables


@dataclass(frozen=True)
class Columns:
    """A field, its table, and where its ids stand in a batch."""

    field: str
    key: str
    """Its name in TorchRec, where names must be those that a module can have."""
    table: str
    column: int
    group: str | None
    """Of a sequence; None for an id field, which has one id a row."""

    def ids(self, batch: Batch) -> Tensor:
        """The field's ids."""
        return batch.ids[:, self.column] if self.group is None else batch.values[self.group][:, self.column]

    def lengths(self, batch: Batch) -> Tensor:
        """Ids a row."""
        if self.group is None:
            return torch.ones(len(batch), dtype=torch.long, device=batch.ids.device)
        return batch.offsets[self.group].diff()


def columns_of(spec: FeatureSpec, width: Mapping[str, int]) -> dict[int, list[Columns]]:
    """All fields that look something up, by the width of their tables."""
    ids = [(f.name, f.table, column, None) for column, f in enumerate(spec.ids)]
    lists = [
        (f.name, f.table, column, group) for group, fields in spec.groups.items() for column, f in enumerate(fields)
    ]
    found: dict[int, list[Columns]] = {}
    for number, (name, table, column, group) in enumerate([*ids, *lists]):
        found.setdefault(width[table], []).append(Columns(name, f"field_{number}", table, column, group))
    return dict(sorted(found.items()))


def jagged(columns: Sequence[Columns], batches: Sequence[Batch]) -> Any:
    """The ids of some fields over several batches, as TorchRec takes them."""
    from torchrec import KeyedJaggedTensor

    return KeyedJaggedTensor(
        keys=[column.key for column in columns],
        values=torch.cat([column.ids(batch).long() for column in columns for batch in batches]),
        lengths=torch.cat([column.lengths(batch) for column in columns for batch in batches]),
    )


def split_by_batch(
    tables: ShardedTables, vectors: Mapping[str, Tensor], batches: Sequence[Batch]
) -> dict[str, list[Tensor]]:
    """Vectors of several batches, by field and batch."""
    columns = [column for group in tables.columns.values() for column in group]
    return {c.field: list(torch.split(vectors[c.field], [len(c.ids(b)) for b in batches])) for c in columns}
