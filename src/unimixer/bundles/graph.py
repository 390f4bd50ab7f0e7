"""Turn a trained ranker into a function of one request, which computes the user's part once for all candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.bundles.batch_last import RowTokenizer, use_batch_last
from unimixer.bundles.encoders import UserOrItemEncoder, newest_first, packed_vectors, request_encoder
from unimixer.bundles.search import found_events
from unimixer.bundles.tokens import SplitTokenizer, split_tokenizer
from unimixer.errors import UnimixerError
from unimixer.features.request import Request, RequestLayout
from unimixer.features.sequence_encoders import LISTWISE
from unimixer.features.spec import FeatureSpec
from unimixer.mixing import freeze, materialize
from unimixer.ranker import Ranker

USER, CANDIDATES = "user", "candidates"
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True)
class Input:
    """Describe one tensor of the graph's signature."""

    name: str
    side: str
    """``user`` or ``candidates``."""
    dtype: str
    """``int32``, ``int64`` or ``float32``."""
    width: int | None
    """Columns; None for a vector of offsets."""

    @property
    def key(self) -> str:
        """Name of the tensor in :meth:`Batch.inputs` of its side."""
        columns = self.name.removeprefix(f"{self.side}.")
        return columns if columns in ("sparse_ids", "dense_features") else self.name

    @property
    def rows(self) -> str | int:
        """The length of the first axis: a number, or a name if it varies."""
        if self.key in ("sparse_ids", "dense_features"):
            return 1 if self.side == USER else CANDIDATES
        return f"{CANDIDATES} + 1" if self.width is None else f"{self.name}.rows"


def signature(spec: FeatureSpec, layout: RequestLayout) -> tuple[Input, ...]:
    """List the tensors of the graph in their order; a side without columns of a kind has no such tensor.

    ``user.sparse_ids`` (1, F_u), ``user.dense_features`` (1, W_u), ``candidates.sparse_ids`` (N, F_c),
    ``candidates.dense_features`` (N, W_c), and ``GROUP.sequence_values`` (V, C) for every sequence. A sequence of the
    user is one list; a sequence of the candidates has ``GROUP.sequence_offsets`` (N + 1,).
    """
    dense = spec.dense_width - layout.user_dense
    columns = [
        Input(f"{USER}.sparse_ids", USER, "int32", layout.user_ids),
        Input(f"{USER}.dense_features", USER, "float32", layout.user_dense),
        Input(f"{CANDIDATES}.sparse_ids", CANDIDATES, "int32", len(spec.ids) - layout.user_ids),
        Input(f"{CANDIDATES}.dense_features", CANDIDATES, "float32", dense),
    ]
    lists = []
    for group, fields in spec.groups.items():
        side = USER if group in layout.user_groups else CANDIDATES
        lists.append(Input(f"{group}.sequence_values", side, "int32", len(fields)))
        if side == CANDIDATES:
            lists.append(Input(f"{group}.sequence_offsets", side, "int64", None))
    return (*(column for column in columns if column.width), *lists)


def feed(inputs: tuple[Input, ...], request: Request) -> tuple[Tensor, ...]:
    """List the tensors of a request in the order of a signature, contiguous because compiled code ignores strides."""
    sides = {USER: request.user.inputs(), CANDIDATES: request.candidates.inputs()}
    return tuple(sides[one.side][one.key].contiguous() for one in inputs)


class RequestRanker(nn.Module):
    """A ranker with a request for input; its scores equal those of the ranker on :meth:`Request.batch`.

    Embeddings and encoded histories of the user have one row. So have the user's share of the tokenizer's first layer
    and the tokens that read nothing else, see :mod:`unimixer.bundles.tokens`. Events that the stack itself reads
    (``sequences="tokens"`` and ``"cross_attention"``) stay one row that all candidates read. Constrained mixing
    matrices and composed maps are constants.

    Args:
        ranker: trained; it is copied, except for its embedding tables.
        layout: the part of a batch that belongs to the user.
        batch_last: run streams of blocks with the samples last if they can, see :mod:`unimixer.bundles.batch_last`.

    Shape:
        - inputs: the tensors of ``inputs``
        - output: logits and probabilities, ``(N, tasks)`` each
    """

    def __init__(self, ranker: Ranker, layout: RequestLayout, *, batch_last: bool = False) -> None:
        super().__init__()
        tables, ranker.embedding.tables = ranker.embedding.tables, nn.Module()  # type: ignore[assignment]
        try:
            self.ranker = materialize(freeze(ranker))
        finally:
            ranker.embedding.tables = tables
        self.ranker.embedding.tables = tables
        self.ranker.auxiliary_towers = nn.ModuleList()  # they run in training alone
        self.layout, self.spec = layout, ranker.spec
        self.inputs = signature(ranker.spec, layout)
        self.tokenizer = self._split(layout)
        if batch_last and use_batch_last(self.ranker.backbone) and isinstance(self.tokenizer, SplitTokenizer):
            self.tokenizer = RowTokenizer(self.tokenizer)
        self.requires_grad_(False)
        self.eval()

    def _split(self, layout: RequestLayout) -> nn.Module:
        """Split the embedding by sides and return the split tokenizer."""
        embedding, spec = self.ranker.embedding, self.spec
        encoded = embedding.encoder_of
        pooled = {
            group: fields
            for group, fields in spec.groups.items()
            if group not in encoded and all(group != events.name for events in embedding.event_groups)
        }
        ids, dense, users = layout.user_ids, _dense_fields(spec, layout.user_dense), layout.user_groups
        mine = {group: fields for group, fields in pooled.items() if group in users}
        theirs = {group: fields for group, fields in pooled.items() if group not in users}
        self.user = UserOrItemEncoder(embedding, spec.ids[:ids], spec.dense[:dense], mine, single=True)
        self.candidates = UserOrItemEncoder(embedding, spec.ids[ids:], spec.dense[dense:], theirs, single=False)
        foreign = [group for group in (*encoded, *(e.name for e in embedding.event_groups)) if group not in users]
        for group, search in embedding.searches.items():
            if search.field is not None and search.id_column < ids:
                raise UnimixerError(f"sequence_search.{group}: field {search.field!r} is the user's; name an item's")
        if foreign:
            raise UnimixerError(
                f"sequence {foreign[0]!r} is not the user's; only histories of users can be encoded once"
            )
        searched = {embedding.encoder_of[group] for group in embedding.searches}
        self.encoders = nn.ModuleList(
            encoder if index in searched else request_encoder(encoder)
            for index, encoder in enumerate(embedding.encoders)
        )
        self.names = [field.name for field in embedding.slices]
        self.of_user = self.user.names
        owner = torch.cat([torch.full((p.width,), p.name not in self.of_user) for p in embedding.slices])
        if not owner.any():
            raise UnimixerError("every feature is the user's: nothing tells candidates apart, so there is no request")
        tokenizer = split_tokenizer(self.ranker.tokenizer, owner)
        del self.ranker.tokenizer  # its weights are in the split form
        return tokenizer

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities of all candidates."""
        tensors = {one.name: tensor for one, tensor in zip(self.inputs, inputs, strict=True)}
        values = {group: tensors[f"{group}.sequence_values"] for group in self.spec.groups}
        offsets = {group: tensors[f"{group}.sequence_offsets"] for group in self.candidates.groups}
        user = self.user(tensors.get(f"{USER}.sparse_ids"), tensors.get(f"{USER}.dense_features"), values, {})
        vectors = self.candidates(
            tensors.get(f"{CANDIDATES}.sparse_ids"), tensors.get(f"{CANDIDATES}.dense_features"), values, offsets
        )
        for group, index in self.ranker.embedding.encoder_of.items():
            vectors |= self._encoded(group, self.encoders[index], tensors, {**user, **vectors})
        once = [user[name] for name in self.names if name in self.of_user]
        items = torch.cat([vectors[name] for name in self.names if name not in self.of_user], dim=1)
        tokens = self.tokenizer(torch.cat(once, dim=1) if once else None, items)
        logits = self.ranker.score_tokens(tokens, *self._histories(values))
        return logits, logits.sigmoid()

    def _events(self, group: str, values: Tensor) -> Tensor:
        fields, embedding = self.spec.groups[group], self.ranker.embedding
        rows = embedding.managed.columns(fields, values)
        return torch.cat([packed_vectors(embedding.tables, f.table, rows[:, i]) for i, f in enumerate(fields)], dim=1)

    def _histories(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Collect the events that the stack reads, in one row."""
        histories: list[Tensor] = []
        for group in self.ranker.embedding.event_groups:
            histories += newest_first(self._events(group.name, values[group.name]), group.max_length)
        return histories

    def _encoded(
        self, group: str, encoder: nn.Module, tensors: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Encode a history, which its encoder compares with the candidates."""
        fields, embedding, values = self.spec.groups[group], self.ranker.embedding, tensors[f"{group}.sequence_values"]
        rows = next(tensor.shape[0] for name, tensor in vectors.items() if name not in self.of_user)
        targets = [
            vectors[name].expand(rows, -1) if name in self.of_user else vectors[name]
            for name in embedding.targets(fields)
        ]
        events, target = self._events(group, values), torch.cat(targets, dim=1)
        search = embedding.searches.get(group)
        if search is None:
            pooled: Tensor = encoder(events, target)
        else:
            assert isinstance(encoder, LISTWISE)
            ids = tensors[f"{CANDIDATES}.sparse_ids"][:, search.id_column - self.layout.user_ids]
            keys = events[:, encoder.matched]
            candidate_events = found_events(search, events, values[:, search.event_column], ids, keys, target)
            pooled = encoder.encode(*candidate_events, target)
        widths = [embedding.tables.width[field.table] for field in fields]
        return dict(zip([f.name for f in fields], torch.split(pooled, widths, dim=1), strict=True))


def _dense_fields(spec: FeatureSpec, columns: int) -> int:
    """Count the dense fields that fill the first columns."""
    total = 0
    for number, field in enumerate(spec.dense):
        if total == columns:
            return number
        total += field.width
    return len(spec.dense)


def example(inputs: tuple[Input, ...], *, candidates: int = 3, length: int = 4) -> tuple[Tensor, ...]:
    """Make tensors of zeros that fit a signature, to trace a graph with."""
    dtypes: dict[str, Any] = {"int32": torch.int32, "int64": torch.int64, "float32": torch.float32}
    rows: dict[Any, int] = {1: 1, CANDIDATES: candidates}
    return tuple(
        torch.arange(candidates + 1)
        if one.width is None
        # every list of a candidate has one value here, as the offsets of the example say
        else torch.zeros(
            rows.get(one.rows, length if one.side == USER else candidates), one.width, dtype=dtypes[one.dtype]
        )
        for one in inputs
    )
