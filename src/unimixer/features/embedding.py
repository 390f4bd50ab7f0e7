"""Embedding tables packed into one weight per width, so that all fields of a batch are one lookup."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.errors import check_positive, unknown


class PackedEmbedding(nn.Module):
    r"""All tables of one width as one matrix; table :math:`k` begins at row :math:`o_k = \sum_{j<k} n_j`.

    .. math:: e = W[o_k + i]

    Gradients are row-sparse: a step costs what the batch touches, whatever the number of rows.

    Shape:
        - weight: ``(sum of num_embeddings, embedding_dim)``
    """

    def __init__(self, tables: Mapping[str, int], embedding_dim: int, *, init_std: float = 0.01) -> None:
        super().__init__()
        self.embedding_dim, self.init_std = embedding_dim, init_std
        self.first_row: dict[str, int] = {}
        total = 0
        for name, num_embeddings in tables.items():
            self.first_row[name] = total
            total += num_embeddings
        self.weight = nn.Parameter(torch.empty(total, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all rows from N(0, init_std^2)."""
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of packed rows: ``(...)`` to ``(..., embedding_dim)``."""
        return F.embedding(rows, self.weight, sparse=True)

    def mean(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """Mean vector of each bag of packed rows, zero for an empty one: ``(V,)`` and ``(N + 1,)`` to ``(N, dim)``."""
        return F.embedding_bag(rows, self.weight, offsets, mode="mean", sparse=True, include_last_offset=True)


class EmbeddingTables(nn.Module):
    """Tables of any widths: one :class:`PackedEmbedding` per width.

    Args:
        tables: rows of every table.
        embedding_dim: width of every table that ``embedding_dims`` does not name.
        embedding_dims: widths of single tables.
    """

    def __init__(
        self,
        tables: Mapping[str, int],
        *,
        embedding_dim: int,
        embedding_dims: Mapping[str, int] | None = None,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim)
        widths = dict(embedding_dims or {})
        for name in widths:
            if name not in tables:
                raise unknown("table in embedding_dims", name, tables)
            check_positive(**{f"embedding_dims[{name!r}]": widths[name]})
        self.num_embeddings = dict(tables)
        self.width = {name: widths.get(name, embedding_dim) for name in tables}
        self.packed = nn.ModuleDict(
            {
                str(width): PackedEmbedding(
                    {n: rows for n, rows in tables.items() if self.width[n] == width}, width, init_std=init_std
                )
                for width in sorted(set(self.width.values()))
            }
        )

    def of_width(self, width: int) -> PackedEmbedding:
        """The packed tables of one width."""
        packed = self.packed[str(width)]
        assert isinstance(packed, PackedEmbedding)
        return packed

    def first_row(self, table: str) -> int:
        """First packed row of a table."""
        return self.of_width(self.width[table]).first_row[table]
