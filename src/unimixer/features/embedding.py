"""Embedding tables packed into one weight per width, so that all fields of a batch are one lookup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unimixer.errors import UnimixerError, check_positive, unknown
from unimixer.features.batch import Batch
from unimixer.features.sequence import owners
from unimixer.ops import native


def merge_rows(rows: Tensor, source: Tensor, gradients: Tensor, num_rows: int) -> Tensor:
    r"""Sum the gradients of every row of a table, in time and memory that grow with the batch and not the table.

    .. math:: G_u = \sum_{i :\, r_i = u} g_{s_i}

    One sort brings the places of a row together. Their sum is then a bag of lines of ``gradients``, added where they
    stand: the V vectors of a batch are never written out. A sum has the order of the batch.

    Shape:
        - rows, source: ``(V,)``, the row :math:`r_i` and the line :math:`s_i` of ``gradients`` that it receives
        - gradients: ``(N, dim)``
        - output: sparse ``(num_rows, dim)``, coalesced, of the U rows met

    Example:
        >>> rows, source = torch.tensor([7, 2, 7]), torch.tensor([0, 0, 1])
        >>> merged = merge_rows(rows, source, torch.tensor([[1.0], [10.0]]), num_rows=9)
        >>> merged.indices().tolist(), merged.values().tolist()
        ([[2, 7]], [[1.0], [11.0]])
    """
    shape = (num_rows, gradients.shape[1])
    if native.merges([rows, source], [gradients], num_rows):
        return _coalesced(*native.merge_rows(rows, source, gradients, num_rows), shape)
    keys = rows.int() if num_rows <= torch.iinfo(torch.int32).max else rows  # narrow keys sort faster
    ordered, order = torch.sort(keys, stable=True)
    met, counts = torch.unique_consecutive(ordered, return_counts=True)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    merged = F.embedding_bag(source.index_select(0, order), gradients, offsets, mode="sum", include_last_offset=True)
    return _coalesced(met.long(), merged, shape)


def _coalesced(rows: Tensor, merged: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), merged, shape, is_coalesced=True, check_invariants=False)


class _Lookup(torch.autograd.Function):
    """Look up single rows and means of bags; backward merges the gradients of both once."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, rows: Tensor, bags: Tensor, offsets: Tensor, sparse: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, bags, offsets)
        ctx.num_rows, ctx.sparse = weight.shape[0], sparse
        vectors = F.embedding(rows, weight)
        return vectors, F.embedding_bag(bags, weight, offsets, mode="mean", include_last_offset=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_means: Tensor) -> tuple[Tensor | None, ...]:
        rows, bags, offsets = ctx.saved_tensors
        shares = of_means / offsets.diff().clamp(min=1).unsqueeze(1)
        lookups, of_lookups = rows.flatten(), of_rows.flatten(0, -2)
        if native.merges([lookups, bags, offsets], [of_lookups, shares], ctx.num_rows):
            merged = native.merge_lookups(lookups, bags, offsets, of_lookups, shares, ctx.num_rows)
            gradient = _coalesced(*merged, (ctx.num_rows, shares.shape[1]))
        else:
            single = torch.arange(lookups.numel(), device=rows.device)
            gradient = merge_rows(
                torch.cat([lookups, bags]),
                torch.cat([single, owners(offsets, bags.shape[0]) + lookups.numel()]),
                torch.cat([of_lookups, shares]),
                ctx.num_rows,
            )
        return gradient if ctx.sparse else gradient.to_dense(), None, None, None, None


class PackedEmbedding(nn.Module):
    r"""All tables of one width as one matrix; table :math:`k` begins at row :math:`o_k = \sum_{j<k} n_j`.

    .. math:: e = W[o_k + i]

    A model calls :meth:`lookup`; :meth:`forward` and :meth:`mean` define it.

    Args:
        tables: rows :math:`n_k` of every table.
        embedding_dim: width of a row.
        init_std: standard deviation of the numbers drawn.
        device: where the weight is made.
        sparse_gradients: see :class:`EmbeddingTables`.

    Shape:
        - weight: ``(sum of num_embeddings, embedding_dim)``
        - rows: ``(...)``; output: ``(..., embedding_dim)``

    Source: ``torch.nn.Embedding``; tables side by side as in FBGEMM's table-batched embedding.

    Example:
        >>> packed = PackedEmbedding({"user": 3, "item": 5}, 4)
        >>> packed.first_row, packed(torch.tensor([[0, 3]])).shape
        ({'user': 0, 'item': 3}, torch.Size([1, 2, 4]))
    """

    def __init__(
        self,
        tables: Mapping[str, int],
        embedding_dim: int,
        *,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        sparse_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.init_std, self.sparse_gradients = embedding_dim, init_std, sparse_gradients
        self.first_row: dict[str, int] = {}
        total = 0
        for name, num_embeddings in tables.items():
            self.first_row[name] = total
            total += num_embeddings
        self.weight = nn.Parameter(_empty(tables, total, embedding_dim, device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all rows from N(0, init_std^2)."""
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors of packed rows: ``(...)`` to ``(..., embedding_dim)``."""
        return F.embedding(rows, self.weight, sparse=self.sparse_gradients)

    def lookup(self, rows: Tensor, bags: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` of ``rows`` and :meth:`mean` of ``bags``, with one gradient that meets every row once."""
        if torch.compiler.is_compiling():  # a graph is traced through the definition
            return self(rows), self.mean(bags, offsets)
        vectors, means = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.weight, rows, bags, offsets, self.sparse_gradients
        )
        return vectors, means

    def mean(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """Mean vector of each bag of packed rows, zero for an empty one: ``(V,)`` and ``(N + 1,)`` to ``(N, dim)``."""
        sparse = self.sparse_gradients
        return F.embedding_bag(rows, self.weight, offsets, mode="mean", sparse=sparse, include_last_offset=True)


def _empty(tables: Mapping[str, int], rows: int, width: int, device: torch.device | str | None) -> Tensor:
    try:
        return torch.empty(rows, width, device=device)
    except RuntimeError as error:
        largest = max(tables, key=lambda name: tables[name])
        raise UnimixerError(
            f"{rows:,} rows of {width} numbers ({rows * width * 4 / 1e9:,.0f} GB) do not fit into memory, "
            f"{tables[largest]:,} of them in {largest!r}; give it fewer rows (model.managed_embeddings, or fewer "
            "values in its vocabulary), or cut it over processes (docs/distributed.md)"
        ) from error


class EmbeddingTables(nn.Module):
    r"""Tables of any widths: one :class:`PackedEmbedding` per width.

    With dense gradients every optimizer of torch trains the tables, and a step costs what the tables hold. With
    row-sparse ones a step costs what the batch touches, and the tables need an optimizer for such gradients, as
    ``torch.optim.SparseAdam`` or those of :mod:`unimixer.training.optimizers`.

    .. math:: e = W^k[i], \qquad W^k \in \mathbb{R}^{n_k \times d_k}

    Args:
        tables: rows of every table.
        embedding_dim: width of every table that ``embedding_dims`` does not name.
        embedding_dims: widths of single tables.
        init_std: standard deviation of the numbers drawn.
        device: where they are made; on ``meta`` they take no memory, for whoever puts other tables in their place.
        sparse_gradients: give row-sparse gradients.

    Shape:
        - the weight of one width: ``(rows of its tables, width)``

    Source: ``torch.nn.Embedding``, one a table.

    Example:
        >>> tables = EmbeddingTables({"user": 3, "hour": 24}, embedding_dim=8, embedding_dims={"hour": 2})
        >>> {width: tuple(packed.weight.shape) for width, packed in tables.packed.items()}
        {'2': (24, 2), '8': (3, 8)}
    """

    def __init__(
        self,
        tables: Mapping[str, int],
        *,
        embedding_dim: int,
        embedding_dims: Mapping[str, int] | None = None,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        sparse_gradients: bool = False,
    ) -> None:
        super().__init__()
        check_positive(embedding_dim=embedding_dim)
        widths = dict(embedding_dims or {})
        for name in widths:
            if name not in tables:
                raise unknown("table in embedding_dims", name, tables)
            check_positive(**{f"embedding_dims[{name!r}]": widths[name]})
        self.num_embeddings, self.init_std = dict(tables), init_std
        self.width = {name: widths.get(name, embedding_dim) for name in tables}
        self.packed = nn.ModuleDict(
            {
                str(width): PackedEmbedding(
                    {n: rows for n, rows in tables.items() if self.width[n] == width},
                    width,
                    init_std=init_std,
                    device=device,
                    sparse_gradients=sparse_gradients,
                )
                for width in sorted(set(self.width.values()))
            }
        )

    def use_sparse_gradients(self) -> None:
        """Give row-sparse gradients from now on."""
        for width in set(self.width.values()):
            self.of_width(width).sparse_gradients = True

    def of_width(self, width: int) -> PackedEmbedding:
        """Return the packed tables of one width."""
        packed = self.packed[str(width)]
        assert isinstance(packed, PackedEmbedding)
        return packed

    def first_row(self, table: str) -> int:
        """Return the first packed row of a table."""
        return self.of_width(self.width[table]).first_row[table]

    @torch.no_grad()
    def reset_rows(self, table: str, rows: Tensor, vectors: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Give some rows of a table new vectors and clear their state in the optimizer."""
        weight = self.of_width(self.width[table]).weight
        packed = (rows + self.first_row(table)).to(weight.device)
        weight[packed] = vectors.to(weight.device)
        for tensor in optimizer.state[weight].values():
            if tensor.dim() and len(tensor) == len(weight):
                tensor[packed] = 0

    def vectors(self, batch: Batch) -> Mapping[str, Tensor] | None:
        """Return the vectors of a batch that another process looked up, by field, or None if the rows are here.

        Tables that several processes share stand in the place of these and give
        ``(B, width)`` for an id field and ``(V, width)`` for a sequence field.
        """
        return None

    @contextmanager
    def once(self, batches: Sequence[Batch], step: int = 0) -> Iterator[None]:
        """Look up the given batches at once where processes share tables; embed them inside the context."""
        yield
