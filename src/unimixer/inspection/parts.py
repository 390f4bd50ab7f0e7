"""Cut the input of a model into the parts whose interactions are measured: tokens, fields or groups of fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.ranker import Ranker

PARTS = ("tokens", "fields", "groups")
WHOLE = 0.995
"""A field with at least this share of its width in a part is named without the share."""


@dataclass(frozen=True)
class Part:
    """Some columns of the vector E, or the events of one history."""

    fields: Mapping[str, float]
    """The fields of the part, each with the share of its width that lies in it."""
    columns: tuple[int, ...] = ()
    history: int | None = None
    """Position among the model's groups of events."""

    @property
    def name(self) -> str:
        """The fields, with the share of one that is cut."""
        return ", ".join(name if share >= WHOLE else f"{name} ({share:.0%})" for name, share in self.fields.items())


@dataclass(frozen=True)
class KnownGroups:
    """Groups of fields of the world that made a dataset, and the pairs of them that interact."""

    groups: list[list[str]]
    """Names of the fields of every group."""
    pairs: list[tuple[int, int]]


def known_groups(dataset: Dataset) -> KnownGroups | None:
    """Read the groups that a synthetic world wrote into the manifest of its dataset; None for other data."""
    world = dataset.manifest.get("world", {})
    if not world.get("interacting_groups"):
        return None
    return KnownGroups(world["groups"], [(first, second) for first, second in world["interacting_groups"]])


def input_parts(model: Ranker, by: str, groups: Sequence[Sequence[str]] | None = None) -> list[Part]:
    """Cut the input of a model into parts; a history whose events the stack reads is a part of its own.

    Args:
        model: the model.
        by: ``tokens``: what each token of the tokenizer reads, without a token that reads everything; ``fields``: one
            part a field; ``groups``: the groups of fields below.
        groups: names of the fields of every group; a field that the model does not read is left out.
    """
    slices = model.embedding.slices
    ends = [0, *accumulate(field.width for field in slices)]
    own = {field.name: tuple(range(ends[i], ends[i + 1])) for i, field in enumerate(slices)}
    if by == "groups":
        if groups is None:
            raise UnimixerError("by='groups': the dataset names no groups of fields; choose tokens or fields")
        return [
            Part({name: 1.0 for name in group if name in own}, tuple(c for name in group for c in own.get(name, ())))
            for group in groups
        ]
    histories = [
        Part({field.name: 1.0 for field in model.spec.groups[group.name]}, history=index)
        for index, group in enumerate(model.embedding.event_groups)
    ]
    if by == "fields":
        return [Part({name: 1.0}, columns) for name, columns in own.items()] + histories
    read = [columns for columns in token_columns(model.tokenizer, ends[-1]) if columns]
    if len(read) > 1:
        read = [columns for columns in read if len(columns) < ends[-1]]
    parts = []
    for columns in read:
        counts = {name: len(set(columns).intersection(of_field)) for name, of_field in own.items()}
        parts.append(Part({name: n / len(own[name]) for name, n in counts.items() if n}, columns))
    return parts + histories


@torch.enable_grad()
def token_columns(tokenizer: nn.Module, width: int) -> list[tuple[int, ...]]:
    """Find the columns of E that every token reads: those with a gradient.

    Args:
        tokenizer: ``(B, E)`` to ``(B, T, D)``.
        width: E.

    Example:
        >>> from unimixer.features.fields import FieldSlice
        >>> from unimixer.features.tokenizers import ChunkTokenizer
        >>> fields = [FieldSlice("country", "user", 3), FieldSlice("city", "user", 1)]
        >>> token_columns(ChunkTokenizer(fields, num_tokens=2, token_dim=8), 4)
        [(0, 1), (2, 3)]
    """
    generator = torch.Generator().manual_seed(0)
    embedded = torch.randn(1, width, generator=generator).requires_grad_()
    tokens: Tensor = tokenizer(embedded)
    weights = torch.randn(tokens.shape[2], generator=generator)  # a plain sum may cancel out
    columns = []
    for token in tokens[0]:
        (gradient,) = torch.autograd.grad(token @ weights, embedded, retain_graph=True)
        columns.append(tuple(gradient[0].nonzero().flatten().tolist()))
    return columns


def token_shares(model: Ranker, parts: Sequence[Part]) -> Tensor:
    """Compute which share of a part every token reads.

    A token of a history reads the history alone, and a column that several tokens read counts for each of them.

    Shape:
        - output: ``(parts, T)``, rows sum to one, or are zero for a part that no token reads
    """
    read = token_columns(model.tokenizer, sum(field.width for field in model.embedding.slices))
    shares = torch.zeros(len(parts), model.backbone.num_tokens)
    appended = model.backbone.num_tokens - len(read)
    each = appended // max(1, len(model.embedding.event_groups))
    for index, part in enumerate(parts):
        for token, columns in enumerate(read):
            shares[index, token] = len(set(columns).intersection(part.columns))
        if part.history is not None:
            shares[index, len(read) + part.history * each :][:each] = 1.0
    return shares / shares.sum(1, keepdim=True).clamp(min=1.0)
