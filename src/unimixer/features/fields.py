"""Embed a batch as one vector per impression: every field's embedding, in the order of the semantic domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.check_ids import check_ids
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.embedding_options import EmbeddingOptions
from unimixer.features.events import EventGroup, pad_events
from unimixer.features.managed import ManagedTables
from unimixer.features.numeric import NumericEmbedding, VectorProjection
from unimixer.features.search import HistorySearch, inner_products, keep, nearest, search_batch
from unimixer.features.sequence import owners
from unimixer.features.sequence_encoders import LISTWISE, build_encoder, check_encoder, check_searched
from unimixer.features.spec import FeatureSpec, SequenceField

DOMAINS = ("user", "item", "behaviour", "context")


@dataclass(frozen=True)
class FieldSlice:
    """The columns of one field in the vector E.

    Example:
        >>> FieldSlice("user_id", "user", 16).width
        16
    """

    name: str
    domain: str
    width: int


class FieldEmbedding(nn.Module):
    r"""Embed all fields and concatenate them: user, item, behaviour, context.

    .. math:: E = [\, e_1 \,\Vert\, \dots \,\Vert\, e_F \,]

    arXiv:2604.00590, features to tokens. ``slices`` lists the fields in the order of E, ``read_tables``
    names the tables of features that are not ignored.

    Args:
        spec: shapes of the encoded data.
        pool_behaviour: put behaviour sequences into E, pooled. Otherwise :meth:`histories` gives their events, and E
            has what is left. A group of sequences is behaviour if one of its fields has that domain.
        options: fields of :class:`EmbeddingOptions`.

    Shape:
        - output: ``(B, out_dim)``

    Example:
        >>> from unimixer.features.spec import IdField
        >>> spec = FeatureSpec((IdField("item", "item", "item"),), (), (), {"item": 9}, ("click",))
        >>> FieldEmbedding(spec, embedding_dim=4)(Batch(torch.tensor([[3], [8]]), torch.zeros(2, 0))).shape
        torch.Size([2, 4])
    """

    def __init__(self, spec: FeatureSpec, *, pool_behaviour: bool = True, **options: Any) -> None:
        super().__init__()
        chosen = EmbeddingOptions(**options)
        embedding_dim, managed_embeddings = chosen.embedding_dim, dict(chosen.managed_embeddings or {})
        sequence_options = dict(chosen.sequence_options or {})
        check_encoder(chosen.sequence_encoder, sequence_options)
        self.spec, self.embedding_dim = spec, embedding_dim
        self._ignored = {part for name in chosen.ignored_features for part in spec.select(name)}
        read = [f.table for f in spec.ids if f.name not in self._ignored]
        self.read_tables = {*read, *(f.table for f in spec.sequences if f.group not in self._ignored)}
        self.managed = ManagedTables(spec, managed_embeddings)
        self.tables = EmbeddingTables(
            {**spec.tables, **managed_embeddings},
            embedding_dim=embedding_dim,
            embedding_dims=chosen.embedding_dims,
            init_std=chosen.embedding_init_std,
            device=chosen.table_device,
            sparse_gradients=chosen.sparse_gradients,
        )
        self._id_width = {f.name: self.tables.width[f.table] for f in spec.ids}
        limits = torch.tensor([spec.tables[f.table] for f in spec.ids], dtype=torch.int32)
        self.limits: Tensor
        self.register_buffer("limits", limits, persistent=False)
        scalars = [f for f in spec.dense if f.width == 1]
        self.numeric = NumericEmbedding(len(scalars), embedding_dim) if scalars else None
        # lists, because names of fields and histories need not be names that a module can have
        self._vector_names = [f.name for f in spec.dense if f.width > 1]
        self.vectors = nn.ModuleList(VectorProjection(f.width, embedding_dim) for f in spec.dense if f.width > 1)
        behaviour = {} if pool_behaviour else {g: f for g, f in spec.groups.items() if _is_behaviour(f)}
        behaviour = {group: fields for group, fields in behaviour.items() if group not in self._ignored}
        self._pooled = {group: fields for group, fields in spec.groups.items() if group not in behaviour}
        self.event_groups = tuple(
            EventGroup(group, sum(self.tables.width[f.table] for f in fields), fields[0].max_length)
            for group, fields in behaviour.items()
        )
        searches = {group: HistorySearch.of(spec, group, s) for group, s in (chosen.sequence_search or {}).items()}
        self.searches = searches
        # groups that are compared with the candidate
        self.encoders, self.encoder_of = nn.ModuleList(), dict[str, int]()
        if chosen.sequence_encoder != "mean":
            for group, fields in self._pooled.items():
                matched = self._matched(fields)
                if matched and group not in self._ignored:
                    width = sum(self.tables.width[f.table] for f in fields)
                    self.encoder_of[group] = len(self.encoders)
                    longest = searches[group].top_k if group in searches else fields[0].max_length
                    encoder = build_encoder(chosen.sequence_encoder, width, matched, longest, sequence_options)
                    self.encoders.append(encoder)
        if sequence_options and not self.encoder_of:
            raise UnimixerError(
                "sequence_options have no effect: the vector E has no sequence that is compared with the candidate; "
                "leave them out"
            )
        check_searched(searches, chosen.sequence_encoder, self.encoder_of)
        self._means = [f for g, fields in self._pooled.items() if g not in self.encoder_of for f in fields]
        self.widths = sorted({*self._id_width.values(), *(self.tables.width[f.table] for f in self._means)})
        for width in self.widths:
            columns = [i for i, f in enumerate(spec.ids) if self._id_width[f.name] == width]
            shifts = [self.tables.first_row(spec.ids[i].table) for i in columns]
            self.register_buffer(f"columns_{width}", torch.tensor(columns, dtype=torch.long), persistent=False)
            self.register_buffer(f"shifts_{width}", torch.tensor(shifts, dtype=torch.long), persistent=False)
        widths = {f.name: (f.domain, self._id_width[f.name]) for f in spec.ids}
        widths |= {f.name: (f.domain, embedding_dim) for f in spec.dense}
        pooled = [f for f in spec.sequences if f.group in self._pooled]
        widths |= {f.name: (f.domain, self.tables.width[f.table]) for f in pooled}
        unread = self._ignored | {f.name for f in spec.sequences if f.group in self._ignored}
        widths = {name: facts for name, facts in widths.items() if name not in unread}
        order = sorted(_ordered(widths, chosen.field_order), key=lambda name: DOMAINS.index(widths[name][0]))
        self.slices = tuple(FieldSlice(name, *widths[name]) for name in order)
        self.out_dim = sum(field.width for field in self.slices)
        if behaviour and not self.slices:
            raise UnimixerError("no field is left beside the behaviour sequences; use sequences='pooled'")
        if not self.slices:
            raise UnimixerError("ignored_features leaves the model no field to read; name fewer")

    def _matched(self, fields: tuple[SequenceField, ...]) -> list[int]:
        """Find the columns of an event's vector whose field has a counterpart among the candidate's fields."""
        matched, start = [], 0
        for field in fields:
            width = self.tables.width[field.table]
            if field.target is not None and self._compares(field.target, width):
                matched += list(range(start, start + width))
            start += width
        return matched

    def targets(self, fields: tuple[SequenceField, ...]) -> list[str]:
        """List the fields of the candidate with which a group of sequences is compared."""
        pairs = [(field.target, self.tables.width[field.table]) for field in fields]
        return [target for target, width in pairs if target and self._compares(target, width)]

    def _compares(self, target: str, width: int) -> bool:
        """Tell whether a field of the candidate is read and as wide as the events."""
        return self._id_width[target] == width and target not in self._ignored

    def check(self, batch: Batch) -> None:
        """Raise if an id lies outside its table: in packed tables it would read another field's row."""
        check_ids(self.spec, self.limits, batch)

    def search(self, batch: Batch) -> Batch:
        """Leave only the found events of hard searches, which need no embeddings; :meth:`forward` does so by itself."""
        return search_batch(batch, self.searches)

    @property
    def reads_numbers(self) -> bool:
        """Whether shapes inside depend on the numbers of a batch, so that they cannot be followed without memory."""
        return bool(self.event_groups or self.searches)

    def forward(self, batch: Batch) -> Tensor:
        batch = self.search(batch)
        by_field, looked_up = self._dense(batch), self.tables.vectors(batch)
        if looked_up is None:
            batch = self.managed(batch, self._pooled)
            by_field |= self._look_up(batch)
        else:
            by_field |= self._from_vectors(batch, looked_up)
        for group in self.encoder_of:
            by_field |= self._encoded(group, batch, by_field, looked_up)
        return torch.cat([by_field[field.name] for field in self.slices], dim=1)

    def _look_up(self, batch: Batch) -> dict[str, Tensor]:
        """Return the vectors of id fields and means of sequences, one lookup a width."""
        by_field: dict[str, Tensor] = {}
        rows = batch.sparse_ids.shape[0]
        for width in self.widths:
            columns, shifts = getattr(self, f"columns_{width}"), getattr(self, f"shifts_{width}")
            every = len(columns) == batch.sparse_ids.shape[1]
            ids = batch.sparse_ids if every else batch.sparse_ids[:, columns]
            means = [f for f in self._means if self.tables.width[f.table] == width]
            vectors, pooled = self.tables.of_width(width).lookup(ids + shifts, *self._bags(means, batch))
            names = [f.name for f in self.spec.ids if self._id_width[f.name] == width]
            by_field |= dict(zip(names, vectors.unbind(1), strict=True))
            by_field |= dict(zip([f.name for f in means], pooled.view(len(means), rows, width).unbind(0), strict=True))
        return by_field

    def _from_vectors(self, batch: Batch, looked_up: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the vectors of id fields and means of sequences, from vectors that were looked up elsewhere."""
        by_field = {field.name: looked_up[field.name] for field in self.spec.ids}
        for field in self._means:
            events, offsets = looked_up[field.name], batch.sequence_offsets[field.group]
            places = torch.arange(len(events), device=events.device)
            by_field[field.name] = F.embedding_bag(places, events, offsets, mode="mean", include_last_offset=True)
        return by_field

    def histories(self, batch: Batch) -> tuple[Tensor, ...]:
        """Events of the behaviour sequences that are not in E: for each group padded events and lengths.

        Shape:
            - output: ``(B, L, E)`` and ``(B,)`` a group, as :func:`~unimixer.features.events.pad_events` gives them
        """
        if not self.event_groups:
            return ()
        padded: list[Tensor] = []
        looked_up = self.tables.vectors(batch)
        for group in self.event_groups:
            fields, values = self.spec.groups[group.name], batch.sequence_values[group.name]
            events = self._events(
                fields, values if looked_up is not None else self.managed.columns(fields, values), looked_up
            )
            padded += pad_events(events, batch.sequence_offsets[group.name], group.max_length)
        return tuple(padded)

    def _events(
        self, fields: tuple[SequenceField, ...], values: Tensor, looked_up: Mapping[str, Tensor] | None
    ) -> Tensor:
        """Return the vectors of a group's events: the embeddings of its fields, one after the other."""
        if looked_up is not None:
            return torch.cat([looked_up[field.name] for field in fields], dim=1)
        vectors = [
            self.tables.of_width(self.tables.width[f.table])(values[:, column] + self.tables.first_row(f.table))
            for column, f in enumerate(fields)
        ]
        return torch.cat(vectors, dim=1)

    def _dense(self, batch: Batch) -> dict[str, Tensor]:
        parts = torch.split(batch.dense_features, [f.width for f in self.spec.dense], dim=1)
        columns = dict(zip([f.name for f in self.spec.dense], parts, strict=True))
        by_field: dict[str, Tensor] = {
            name: projection(columns[name]) for name, projection in zip(self._vector_names, self.vectors, strict=True)
        }
        if self.numeric is not None:
            names = [f.name for f in self.spec.dense if f.width == 1]
            vectors: Tensor = self.numeric(torch.cat([columns[name] for name in names], dim=1))
            by_field |= dict(zip(names, vectors.unbind(1), strict=True))
        return by_field

    def _bags(self, fields: list[SequenceField], batch: Batch) -> tuple[Tensor, Tensor]:
        """Packed rows of some sequences, one field after the other, and the offsets of the B bags of each."""
        start, rows, offsets = 0, [], []
        for field in fields:
            values, ends = batch.sequence_values[field.group], batch.sequence_offsets[field.group]
            column = self._pooled[field.group].index(field)
            rows.append(values[:, column].long() + self.tables.first_row(field.table))
            offsets.append(ends[:-1] + start)
            start += values.shape[0]
        nothing = batch.sparse_ids.new_zeros(1, dtype=torch.long)
        return torch.cat([nothing[:0], *rows]), torch.cat([*offsets, nothing + start])

    def _encoded(
        self, group: str, batch: Batch, by_field: Mapping[str, Tensor], looked_up: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Encode a group of sequences."""
        fields, encoder = self._pooled[group], self.encoders[self.encoder_of[group]]
        widths = [self.tables.width[field.table] for field in fields]
        values, offsets = batch.sequence_values[group], batch.sequence_offsets[group]
        target = torch.cat([by_field[name] for name in self.targets(fields)], dim=1)
        search = self.searches.get(group)
        if search is not None and search.kind == "soft":
            assert isinstance(encoder, LISTWISE)
            with torch.no_grad():
                keys = self._events(fields, values, looked_up)[:, encoder.matched]
                scores = inner_products(keys, target[owners(offsets, len(keys))])
                kept = nearest(scores, offsets, search.top_k)
            looked_up = None if looked_up is None else {f.name: looked_up[f.name][kept] for f in fields}
            values, offsets = keep(values, offsets, kept)
        pooled: Tensor = encoder(self._events(fields, values, looked_up), offsets, target)
        return dict(zip([f.name for f in fields], torch.split(pooled, widths, dim=1), strict=True))


def _ordered(fields: Mapping[str, object], order: Sequence[str] | None) -> list[str]:
    """Return the names of fields in an order that must name each of them once."""
    if order is not None and sorted(order) != sorted(fields):
        wrong = next((name for name in order if name not in fields or list(order).count(name) > 1), None)
        what = f"lacks {min(set(fields) - set(order))!r}" if wrong is None else f"names {wrong!r}"
        raise UnimixerError(f"field_order {what}; it must name every field once: {', '.join(fields)}")
    return list(fields if order is None else order)


def _is_behaviour(fields: tuple[SequenceField, ...]) -> bool:
    return any(field.domain == "behaviour" for field in fields)
