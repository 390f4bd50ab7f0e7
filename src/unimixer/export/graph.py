"""A trained ranker as a function of one request: what belongs to the user is computed once, what follows N times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.export.batch_last import RowTokenizer, use_batch_last
from unimixer.export.halves import UserOrItemEncoder, packed_vectors
from unimixer.export.pooling import request_encoder
from unimixer.export.ragged import newest_first
from unimixer.export.tokens import SplitTokenizer, split_tokenizer
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec
from unimixer.mixing import freeze, materialize
from unimixer.ranker import Ranker

USER, CANDIDATES = "user", "candidates"
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True)
class Input:
    """One tensor of the graph's signature."""

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
        return columns if columns in ("ids", "dense") else self.name

    @property
    def rows(self) -> str | int:
        """The first axis: a number, or a name for what varies."""
        if self.key in ("ids", "dense"):
            return 1 if self.side == USER else CANDIDATES
        return f"{CANDIDATES} + 1" if self.width is None else f"{self.name}.rows"


def signature(spec: FeatureSpec, layout: RequestLayout) -> tuple[Input, ...]:
    """Tensors of the graph in their order; a side without columns of a kind has no such tensor.

    ``user.ids`` (1, F_u), ``user.dense`` (1, W_u), ``candidates.ids`` (N, F_c), ``candidates.dense`` (N, W_c), and for
    every sequence ``GROUP.values`` (V, C). The user's are one list each; those of candidates come with
    ``GROUP.offsets`` (N + 1,).
    """
    dense = spec.dense_width - layout.user_dense
    columns = [
        Input(f"{USER}.ids", USER, "int32", layout.user_ids),
        Input(f"{USER}.dense", USER, "float32", layout.user_dense),
        Input(f"{CANDIDATES}.ids", CANDIDATES, "int32", len(spec.ids) - layout.user_ids),
        Input(f"{CANDIDATES}.dense", CANDIDATES, "float32", dense),
    ]
    lists = []
    for group, fields in spec.groups.items():
        side = USER if group in layout.user_groups else CANDIDATES
        lists.append(Input(f"{group}.values", side, "int32", len(fields)))
        if side == CANDIDATES:
            lists.append(Input(f"{group}.offsets", side, "int64", None))
    return (*(found for found in columns if found.width), *lists)


def feed(inputs: tuple[Input, ...], request: Request) -> tuple[Tensor, ...]:
    """Tensors of a request in the order of a signature, contiguous: compiled code looks at no strides."""
    sides = {USER: request.user.inputs(), CANDIDATES: request.candidates.inputs()}
    return tuple(sides[found.side][found.key].contiguous() for found in inputs)


class RequestRanker(nn.Module):
    """A ranker whose input is a request; equal to the ranker on :meth:`Request.batch`.

    Embeddings and encoded histories of the user are of one row. So are the user's share of the tokenizer's first layer
    and tokens that read nothing else, see :mod:`unimixer.export.tokens`. Events that the stack itself reads
    (``sequences="tokens"`` and ``"cross_attention"``) stay one row that all candidates read. Constrained mixing
    matrices and composed maps are constants.

    Args:
        ranker: trained; it is copied, except for its embedding tables.
        layout: what of a batch belongs to the user.
        batch_last: run streams of blocks with the samples last where they can, see :mod:`unimixer.export.batch_last`.

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
        """Cut the embedding into sides; returns the tokenizer, cut likewise."""
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
        if foreign:
            raise UnimixerError(
                f"sequence {foreign[0]!r} is not the user's; only histories of users can be encoded once"
            )
        self.encoders = nn.ModuleList(request_encoder(encoder) for encoder in embedding.encoders)
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
        given = {found.name: tensor for found, tensor in zip(self.inputs, inputs, strict=True)}
        values = {group: given[f"{group}.values"] for group in self.spec.groups}
        offsets = {group: given[f"{group}.offsets"] for group in self.candidates.groups}
        user = self.user(given.get(f"{USER}.ids"), given.get(f"{USER}.dense"), values, {})
        found = self.candidates(given.get(f"{CANDIDATES}.ids"), given.get(f"{CANDIDATES}.dense"), values, offsets)
        for group, index in self.ranker.embedding.encoder_of.items():
            found |= self._encoded(group, self.encoders[index], values[group], found, user)
        once = [user[name] for name in self.names if name in self.of_user]
        items = torch.cat([found[name] for name in self.names if name not in self.of_user], dim=1)
        tokens = self.tokenizer(torch.cat(once, dim=1) if once else None, items)
        logits = self.ranker.score_tokens(tokens, *self._histories(values))
        return logits, logits.sigmoid()

    def _events(self, group: str, values: Tensor) -> Tensor:
        fields, embedding = self.spec.groups[group], self.ranker.embedding
        rows = embedding.managed.columns(fields, values)
        return torch.cat([packed_vectors(embedding.tables, f.table, rows[:, i]) for i, f in enumerate(fields)], dim=1)

    def _histories(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Events that the stack reads, of one row."""
        found: list[Tensor] = []
        for group in self.ranker.embedding.event_groups:
            found += newest_first(self._events(group.name, values[group.name]), group.max_length)
        return found

    def _encoded(
        self, group: str, encoder: nn.Module, values: Tensor, found: Mapping[str, Tensor], user: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """A history through its encoder, which compares it with the candidates."""
        fields, embedding = self.spec.groups[group], self.ranker.embedding
        rows = next(iter(found.values())).shape[0]
        targets = [found[n] if n in found else user[n].expand(rows, -1) for n in embedding.targets(fields)]
        pooled: Tensor = encoder(self._events(group, values), torch.cat(targets, dim=1))
        widths = [embedding.tables.width[field.table] for field in fields]
        return dict(zip([f.name for f in fields], torch.split(pooled, widths, dim=1), strict=True))


def _dense_fields(spec: FeatureSpec, columns: int) -> int:
    """How many dense fields fill the first columns."""
    total = 0
    for number, field in enumerate(spec.dense):
        if total == columns:
            return number
        total += field.width
    return len(spec.dense)


def example(inputs: tuple[Input, ...], *, candidates: int = 3, length: int = 4) -> tuple[Tensor, ...]:
    """Tensors of zeros that fit a signature: what a graph is traced with."""
    dtypes: dict[str, Any] = {"int32": torch.int32, "int64": torch.int64, "float32": torch.float32}
    rows = {1: 1, CANDIDATES: candidates}
    return tuple(
        torch.arange(candidates + 1)
        if found.width is None
        else torch.zeros(_traced(found, rows, candidates, length), found.width, dtype=dtypes[found.dtype])
        for found in inputs
    )


def _traced(found: Input, rows: Mapping[Any, int], candidates: int, length: int) -> int:
    # of candidates' lists every one has one value here, as the offsets of the example say
    return rows.get(found.rows, length if found.side == USER else candidates)
