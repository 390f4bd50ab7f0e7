"""Encode the features of a request: the fields of one side, and one user's events for many candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.features.dien import DIEN
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.fields import FieldEmbedding
from unimixer.features.numeric import NumericEmbedding
from unimixer.features.sequence import SmallTransformer, TargetAttention
from unimixer.features.spec import DenseField, IdField, SequenceField


def list_of(offsets: Tensor, length: int) -> Tensor:
    r"""Number the list that each of ``length`` values belongs to, by one count and one running sum of whole numbers.

    .. math:: o_v = \#\{ n : \mathrm{offsets}_{n + 1} \le v \}

    Equal to :func:`unimixer.features.sequence.owners`, whose result has a length that follows from values and is
    therefore no operation of ONNX. Nothing here is rounded, so sums over the lists keep their exactness.

    Shape:
        - offsets: ``(N + 1,)``; output: ``(length,)``

    Example:
        >>> list_of(torch.tensor([0, 2, 2, 3]), 3)
        tensor([0, 0, 2])
    """
    ends = offsets[1:]
    marks = torch.zeros(length + 1, dtype=torch.long, device=offsets.device).scatter_add(0, ends, torch.ones_like(ends))
    return marks.cumsum(0)[:-1]


def list_means(vectors: Tensor, offsets: Tensor) -> Tensor:
    """Average the vectors of every list, zero for an empty one, as ``embedding_bag`` does for looked-up vectors.

    Shape:
        - vectors: ``(V, C)``; offsets: ``(N + 1,)``; output: ``(N, C)``

    Example:
        >>> list_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 2, 3])).flatten()
        tensor([2., 0., 5.])
    """
    rows, width = offsets.shape[0] - 1, vectors.shape[1]
    owner = list_of(offsets, vectors.shape[0]).unsqueeze(1).expand(-1, width)
    sums = torch.zeros(rows, width, dtype=vectors.dtype, device=vectors.device).scatter_add(0, owner, vectors)
    return sums / offsets.diff().clamp(min=1).unsqueeze(1).to(vectors.dtype)


def mean_of_all(vectors: Tensor) -> Tensor:
    """Average one list to a row, zero if it is empty: ``(V, C)`` to ``(1, C)``.

    Example:
        >>> mean_of_all(torch.tensor([[1.0], [3.0]])), mean_of_all(torch.zeros(0, 1))
        (tensor([[2.]]), tensor([[0.]]))
    """
    count = torch.ones_like(vectors[:, :1]).sum().clamp(min=1)  # a count from the tensor: no guard on its length
    return vectors.sum(0, keepdim=True) / count


def newest_first(events: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """Lay out one list as ``max_length`` events, the newest first, as ``pad_events`` lays out a batch of one.

    Shape:
        - events: ``(V, E)``, the newest last; output: ``(1, max_length, E)`` and the length ``(1,)``

    Example:
        >>> padded, length = newest_first(torch.tensor([[1.0], [2.0], [3.0]]), 2)
        >>> padded.flatten().tolist(), length.tolist()
        ([3.0, 2.0], [2])
    """
    count = torch.ones_like(events[:, 0], dtype=torch.long).sum()
    age = count - torch.arange(1, events.shape[0] + 1, device=events.device)
    row = age.clamp(max=max_length).unsqueeze(1).expand(-1, events.shape[1])
    # one row more than needed takes the events that are too old
    padded = torch.zeros(max_length + 1, events.shape[1], dtype=events.dtype, device=events.device)
    padded = padded.scatter_add(0, row, events)
    return padded[:max_length].unsqueeze(0), count.clamp(max=max_length).unsqueeze(0)


def packed_vectors(tables: EmbeddingTables, table: str, rows: Tensor) -> Tensor:
    """Look up rows of one table: ``(...)`` to ``(..., embedding_dim)``."""
    packed = tables.of_width(tables.width[table])
    return nn.functional.embedding(rows + packed.first_row[table], packed.weight)


class UserOrItemEncoder(nn.Module):
    """Embed the fields of the user or of the candidates, with the numbers of ``FieldEmbedding``.

    Weights are shared with ``embedding``; those of numeric fields are copied.

    Args:
        embedding: the trained embedding.
        ids: fields of the columns of ids, in their order.
        dense: fields of the columns of numbers.
        groups: sequences that are pooled by their mean.
        single: the side has one row, so a group is one list without offsets.

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
            columns = [i for i, other in enumerate(widths) if other == width]
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
        """Names of the fields that :meth:`forward` returns."""
        pooled = {field.name for fields in self.groups.values() for field in fields}
        return pooled | {field.name for field in self.ids} | {field.name for field in self.dense}

    def forward(
        self, ids: Tensor | None, dense: Tensor | None, values: Mapping[str, Tensor], offsets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Embed every field."""
        by_field: dict[str, Tensor] = {}
        if ids is not None:
            by_field |= self._look_up(ids)
        if dense is not None:
            by_field |= self._numbers(dense)
        for group, fields in self.groups.items():
            rows = self.managed.columns(fields, values[group])
            for column, field in enumerate(fields):
                vectors = packed_vectors(self.tables, field.table, rows[:, column])
                by_field[field.name] = mean_of_all(vectors) if self.single else list_means(vectors, offsets[group])
        return by_field

    def _look_up(self, ids: Tensor) -> dict[str, Tensor]:
        by_field: dict[str, Tensor] = {}
        ids = self.managed.columns(self.ids, ids)
        for width in self.widths:
            columns, shifts = getattr(self, f"columns_{width}"), getattr(self, f"shifts_{width}")
            all_columns = len(columns) == ids.shape[1]
            rows = (ids if all_columns else ids[:, columns]) + shifts
            vectors = nn.functional.embedding(rows, self.tables.of_width(width).weight)
            names = [field.name for field in self.ids if self.tables.width[field.table] == width]
            by_field |= dict(zip(names, vectors.unbind(1), strict=True))
        return by_field

    def _numbers(self, dense: Tensor) -> dict[str, Tensor]:
        parts = torch.split(dense, [field.width for field in self.dense], dim=1)
        columns = dict(zip([field.name for field in self.dense], parts, strict=True))
        by_field: dict[str, Tensor] = {
            name: projection(columns[name]) for name, projection in zip(self.vector_names, self.vectors, strict=True)
        }
        if self.numeric is not None:
            vectors: Tensor = self.numeric(torch.cat([columns[name] for name in self.scalars], dim=1))
            by_field |= dict(zip(self.scalars, vectors.unbind(1), strict=True))
        return by_field


def _numeric(embedding: FieldEmbedding, names: Sequence[str]) -> NumericEmbedding | None:
    """Copy the rows of the numeric embedding that belong to some fields."""
    if embedding.numeric is None or not names:
        return None
    scalars = [field.name for field in embedding.spec.dense if field.width == 1]
    rows = [scalars.index(name) for name in names]
    part = NumericEmbedding(len(rows), embedding.embedding_dim)
    part.load_state_dict({name: tensor[rows] for name, tensor in embedding.numeric.state_dict().items()})
    return part


class RequestAttention(nn.Module):
    r"""Compute the numbers of :class:`~unimixer.features.sequence.TargetAttention` or of DIN for one list of events.

    Its first layer is linear in :math:`[k, q, k - q, k \odot q]`, so the share of an event and the share of a
    candidate are computed once each, and a quarter of the products is left for their pairs:

    .. math:: W [k, q, k - q, k \odot q] = (W_1 + W_3)\, k + (W_2 - W_3)\, q + W_4 (k \odot q)

    Shape:
        - events: ``(V, E)``; target: ``(N, Q)``; output: ``(N, E)``
    """

    of_key: Tensor
    of_query: Tensor
    of_product: Tensor
    bias: Tensor
    matched: Tensor

    def __init__(self, encoder: TargetAttention) -> None:
        super().__init__()
        first, self.rest = encoder.score[0], encoder.score[1:]
        assert isinstance(first, nn.Linear)
        of_key, of_query, of_difference, of_product = first.weight.detach().chunk(4, dim=1)
        self.register_buffer("of_key", (of_key + of_difference).T.contiguous())
        self.register_buffer("of_query", (of_query - of_difference).T.contiguous())
        self.register_buffer("of_product", of_product.T.contiguous())
        self.register_buffer("bias", first.bias.detach())
        self.register_buffer("matched", encoder.matched)
        self.scale = encoder.scale

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        """Weigh all events for every candidate."""
        key = events[:, self.matched]
        pairs = (target.unsqueeze(1) * key) @ self.of_product
        alone = (key @ self.of_key + self.bias).unsqueeze(0) + (target @ self.of_query).unsqueeze(1)
        weights: Tensor = self.rest(pairs + alone).squeeze(-1)
        return weights @ events * self.scale


class RequestTransformer(nn.Module):
    """Compute the numbers of :class:`~unimixer.features.sequence.SmallTransformer` for one list of events.

    The events attend to the candidate among them, so the layer runs once a candidate. All candidates have the same
    list, so nothing is padded or masked.

    Shape:
        - events: ``(V, E)``, at most ``max_length`` of them; target: ``(N, Q)``; output: ``(N, E)``
    """

    def __init__(self, encoder: SmallTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = encoder.layer.self_attn.num_heads

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        """Apply one layer to each candidate and the events, then take the mean."""
        encoder, layer = self.encoder, self.encoder.layer
        count = torch.ones_like(events[:, 0], dtype=torch.long).sum()
        ages = count - torch.arange(1, events.shape[0] + 1, device=events.device)
        events = events + encoder.position[ages.clamp(max=encoder.max_length - 1)]
        first = encoder.target(target).unsqueeze(1)
        tokens = torch.cat([first, events.unsqueeze(0).expand(target.shape[0], -1, -1)], dim=1)
        tokens = tokens + self._attend(layer.norm1(tokens))
        tokens = tokens + layer.linear2(F.gelu(layer.linear1(layer.norm2(tokens))))
        encoded: Tensor = tokens.mean(1)
        return encoded

    def _attend(self, tokens: Tensor) -> Tensor:
        attention = self.encoder.layer.self_attn
        projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (
            part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in projected.chunk(3, dim=-1)
        )
        weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
        read: Tensor = attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return read


class RequestDIEN(nn.Module):
    """Compute the numbers of :class:`~unimixer.features.dien.DIEN` for one list of events.

    Interests are extracted once a request; their evolution runs for all candidates together.

    Shape:
        - events: ``(V, E)``, at most ``max_length`` of them; target: ``(N, Q)``; output: ``(N, E)``
    """

    def __init__(self, encoder: DIEN) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        """Encode the padded list."""
        return self.encoder.encode(*newest_first(events, self.encoder.max_length), target)


def request_encoder(encoder: nn.Module) -> nn.Module:
    """Convert a trained encoder to its form for requests."""
    if isinstance(encoder, TargetAttention):
        return RequestAttention(encoder)
    if isinstance(encoder, DIEN):
        return RequestDIEN(encoder)
    assert isinstance(encoder, SmallTransformer)
    return RequestTransformer(encoder)
