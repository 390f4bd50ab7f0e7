"""Embedding tables with fewer rows than ids: a learned map assigns rows to ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unimixer.blocks.auxiliary import Auxiliary
from unimixer.errors import UnimixerError, unknown
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec, IdField, SequenceField

EMPTY = torch.iinfo(torch.int64).max
"""Stands in the map where a row belongs to no id yet."""


class ManagedIds(Auxiliary):
    r"""The ids of one table that have a row, in order, and the row of each.

    .. math:: r(i) = \begin{cases} \text{rows}_p & \text{if } \text{ids}_p = i \\ R - 1 & \text{else} \end{cases}

    The last row is that of all ids without one of their own, so that at most R - 1 ids have one. No two of them share
    it, unlike rows of hashed ids. Who has a row is decided in training, see :mod:`unimixer.training.eviction`; the map
    is part of the weights.

    Source: ids of their own rows instead of hashed ones, as the managed collision of TorchRec.

    Args:
        num_rows: R.

    Shape:
        - ids, rows: ``(R,)`` int64, ids ascending
        - input: ids of any shape; output: rows of the same shape and type

    Example:
        >>> table = ManagedIds(3)
        >>> table.ids[0], table.rows[:2] = 70_000, torch.tensor([1, 0])
        >>> table(torch.tensor([70_000, 5])).tolist()
        [1, 2]
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.ids: Tensor
        self.rows: Tensor
        self.register_buffer("ids", torch.full((num_rows,), EMPTY))
        self.register_buffer("rows", torch.arange(num_rows))

    def forward(self, ids: Tensor) -> Tensor:
        wanted = ids.long()
        position = self._bisect(wanted) if torch.compiler.is_exporting() else self.find(wanted)
        rows = torch.where(self.ids[position] == wanted, self.rows[position], len(self.rows) - 1)
        return rows.to(ids.dtype)

    def find(self, ids: Tensor) -> Tensor:
        """Return the position of the first id in the map that is not smaller."""
        return torch.searchsorted(self.ids[:-1], ids)

    def _bisect(self, ids: Tensor) -> Tensor:
        """Do as :meth:`find`, in operations that every format of a graph supports."""
        position, last = torch.zeros_like(ids), len(self.ids) - 1
        for power in reversed(range(last.bit_length())):
            further = position + 2**power
            smaller = self.ids[(further - 1).clamp(max=last)] < ids
            position = torch.where(smaller, further, position)
        return position


class ManagedTables(torch.nn.Module):
    r"""The maps of all managed tables; the ids of other tables are rows already.

    .. math:: i \mapsto r_k(i) \text{ for the managed tables } k, \qquad i \mapsto i \text{ for the others}

    Source: see :class:`ManagedIds`.

    Args:
        spec: fields and their tables.
        num_rows: rows of the tables that have a map.

    Raises:
        UnimixerError: for an unknown table, or one without a row to manage.

    Shape:
        - input and output: a :class:`~unimixer.features.batch.Batch` of B rows

    Example:
        >>> spec = FeatureSpec((IdField("item", "item", "item"),), (), (), {"item": 9}, ("click",))
        >>> tables = ManagedTables(spec, {"item": 3})
        >>> batch = Batch(torch.tensor([[8], [1]]), torch.zeros(2, 0))
        >>> tables(batch).sparse_ids.tolist()  # no id has a row of its own yet
        [[2], [2]]
    """

    def __init__(self, spec: FeatureSpec, num_rows: Mapping[str, int]) -> None:
        super().__init__()
        for table, rows in num_rows.items():
            if table not in spec.tables:
                raise unknown("table in managed_embeddings", table, spec.tables)
            if rows < 2:
                raise UnimixerError(
                    f"managed_embeddings[{table!r}]={rows} leaves no row to any id; at least 2, the last is shared"
                )
        self.spec, self.tables = spec, tuple(num_rows)
        self.maps = torch.nn.ModuleList(ManagedIds(rows) for rows in num_rows.values())

    def of(self, table: str) -> ManagedIds | None:
        """Return the map of a table; None where its ids are its rows."""
        if table not in self.tables:
            return None
        ids = self.maps[self.tables.index(table)]
        assert isinstance(ids, ManagedIds)
        return ids

    def rows(self, table: str, ids: Tensor) -> Tensor:
        """Return the rows of some ids of a table."""
        managed = self.of(table)
        return ids if managed is None else managed(ids)

    def columns(self, fields: Sequence[IdField | SequenceField], ids: Tensor) -> Tensor:
        """Return the rows of the ids of some fields, ``(N, F)``, one column a field."""
        if not any(field.table in self.tables for field in fields):
            return ids
        return torch.stack([self.rows(f.table, column) for f, column in zip(fields, ids.unbind(1), strict=True)], dim=1)

    def forward(self, batch: Batch, groups: Collection[str] | None = None) -> Batch:
        """Replace the ids of a batch by rows; of its sequences keep only those of ``groups``, if these are given."""
        if not self.tables:
            return batch
        wanted = batch.sequence_values if groups is None else groups
        values = {name: self.columns(self.spec.groups[name], batch.sequence_values[name]) for name in wanted}
        return replace(
            batch,
            sparse_ids=self.columns(self.spec.ids, batch.sparse_ids),
            sequence_values={**batch.sequence_values, **values},
        )
