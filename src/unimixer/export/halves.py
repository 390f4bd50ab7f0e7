"""One side's fields of a request, the user's or the candidates', to their pieces of the vector E."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unimixer.export.ragged import list_means, mean_of_all
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.fields import FieldEmbedding
from unimixer.features.numeric import NumericEmbedding
from unimixer.features.spec import DenseField, IdField, SequenceField


def packed_vectors(tables: EmbeddingTables, table: str, rows: Tensor) -> Tensor:
    """Vectors of some rows of one table: ``(...)`` to ``(..., embedding_dim)``."""
    packed = tables.of_width(tables.width[table])
    return nn.functional.embedding(rows + packed.first_row[table], packed.weight)


class UserOrItemEncoder(nn.Module):
    """The same numbers as :class:`~unimixer.features.fields.FieldEmbedding` gives, for some of its fields.

    Weights are shared with ``embedding``, none is copied but those of numeric fields.

    Args:
        embedding: the trained embedding.
        ids: fields of the columns of ids, in their order.
        dense: fields of the columns of numbers.
        groups: sequences that are pooled by their mean.
        single: the side has one row, so that a group is one list and needs no offsets.

    Shape:
        - ids: ``(n, F)``; dense: ``(n, W)``; values[group]: ``(V, C)``; offsets[group]: ``(n + 1,)``
        - output: ``(n, width)`` for every field by name
    """

    def __init__(
        self,
        embedding: FieldEmbedding,
        ids: Sequence[IdField],
        dense: Sequence[DenseField],
        groups: Mapping[str, Sequence[SequenceField]],
        *,
        single: bool,
    ) -> None:
        super().__init__()
        self.tables, self.managed, self.single = embedding.tables, embedding.managed, single
        self.ids, self.dense, self.groups = ids, dense, groups
        widths = [self.tables.width[field.table] for field in ids]
        self.widths = sorted(set(widths))
        for width in self.widths:
            columns = [i for i, found in enumerate(widths) if found == width]
            shifts = [self.tables.first_row(ids[i].table) for i in columns]
            self.register_buffer(f"columns_{width}", torch.tensor(columns, dtype=torch.long))
            self.register_buffer(f"shifts_{width}", torch.tensor(shifts, dtype=torch.int32))
        self.scalars = [field.name for field in dense if field.width == 1]
        self.numeric = _numeric(embedding, self.scalars)
        vectors = [field.name for field in embedding.spec.dense if field.width > 1]
        self.vector_names = [field.name for field in dense if field.width > 1]
        self.vectors = nn.ModuleList(embedding.vectors[vectors.index(name)] for name in self.vector_names)

    @property
    def names(self) -> set[str]:
        """Fields that :meth:`forward` gives."""
        pooled = {field.name for fields in self.groups.values() for field in fields}
        return pooled | {field.name for field in self.ids} | {field.name for field in self.dense}

    def forward(
        self, ids: Tensor | None, dense: Tensor | None, values: Mapping[str, Tensor], offsets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Vectors of every field."""
        found: dict[str, Tensor] = {}
        if ids is not None:
            found |= self._looked_up(ids)
        if dense is not None:
            found |= self._numbers(dense)
        for group, fields in self.groups.items():
            rows = self.managed.columns(fields, values[group])
            for column, field in enumerate(fields):
                vectors = packed_vectors(self.tables, field.table, rows[:, column])
                found[field.name] = mean_of_all(vectors) if self.single else list_means(vectors, offsets[group])
        return found

    def _looked_up(self, ids: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        ids = self.managed.columns(self.ids, ids)
        for width in self.widths:
            columns, shifts = getattr(self, f"columns_{width}"), getattr(self, f"shifts_{width}")
            every = len(columns) == ids.shape[1]
            rows = (ids if every else ids[:, columns]) + shifts
            vectors = nn.functional.embedding(rows, self.tables.of_width(width).weight)
            names = [field.name for field in self.ids if self.tables.width[field.table] == width]
            found |= dict(zip(names, vectors.unbind(1), strict=True))
        return found

    def _numbers(self, dense: Tensor) -> dict[str, Tensor]:
        parts = torch.split(dense, [field.width for field in self.dense], dim=1)
        columns = dict(zip([field.name for field in self.dense], parts, strict=True))
        found: dict[str, Tensor] = {
            name: projection(columns[name]) for name, projection in zip(self.vector_names, self.vectors, strict=True)
        }
        if self.numeric is not None:
            vectors: Tensor = self.numeric(torch.cat([columns[name] for name in self.scalars], dim=1))
            found |= dict(zip(self.scalars, vectors.unbind(1), strict=True))
        return found


def _numeric(embedding: FieldEmbedding, names: Sequence[str]) -> NumericEmbedding | None:
    """The rows of the numeric embedding that belong to some fields."""
    if embedding.numeric is None or not names:
        return None
    every = [field.name for field in embedding.spec.dense if field.width == 1]
    rows = [every.index(name) for name in names]
    part = NumericEmbedding(len(rows), embedding.embedding_dim)
    part.load_state_dict({name: tensor[rows] for name, tensor in embedding.numeric.state_dict().items()})
    return part
