"""Ranker = features -> tokens -> backbone -> task towers -> logits: an ordinary nn.Module for anyone's loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, build_backbone, solve_size
from unimixer.backbones.registry import check_options
from unimixer.errors import UnimixerError, check_choice, unknown
from unimixer.features.batch import Batch
from unimixer.features.fields import FieldEmbedding
from unimixer.features.spec import FeatureSpec
from unimixer.features.tokenizers import build_tokenizer

READOUTS = ("mean", "flatten")


class TaskTowers(nn.Module):
    r"""One small MLP a task on the shared read-out.

    .. math:: z_k = w_k^\top \phi(\dots \phi(W_k r + b_k)) + c_k, \qquad \phi = \mathrm{SiLU}

    Shape:
        - readout: ``(B, R)``; output: logits ``(B, tasks)``
    """

    def __init__(self, in_dim: int, num_tasks: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        dims = [in_dim, *hidden_dims]

        def tower() -> nn.Sequential:
            hidden = [layer for i, o in pairwise(dims) for layer in (nn.Linear(i, o), nn.SiLU())]
            return nn.Sequential(*hidden, nn.Linear(dims[-1], 1))

        self.towers = nn.ModuleList(tower() for _ in range(num_tasks))

    def forward(self, readout: Tensor) -> Tensor:
        return torch.cat([tower(readout) for tower in self.towers], dim=1)


class Ranker(nn.Module):
    """Scores impressions. Knows no paths, no device and no optimizer.

    Args:
        spec: shapes of the encoded data.
        backbone: a name in ``unimixer.backbones.BACKBONES``.
        size: the backbone's dial, from which width and hidden size follow (default: the backbone's own).
        num_tokens: tokens T (ignored by the ``field`` tokenizer, where T is the number of fields).
        tokenizer: ``chunk``, ``semantic``, ``random`` or ``field`` (default: what the backbone's paper uses).
        embedding_dim: width of the embedding tables, unless ``embedding_dims`` names a table.
        sequence_encoder: ``mean``, ``target_attention`` or ``transformer``.
        readout: ``mean`` or ``flatten`` of the output tokens (ignored by backbones that give a vector).
        tower_hidden_dims: hidden widths of each task's tower.
        options: keyword arguments of the backbone.

    Shape:
        - input: :class:`~unimixer.features.batch.Batch` of B impressions
        - output: logits ``(B, tasks)``
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        backbone: str = "unimixer-lite",
        size: float | None = None,
        num_tokens: int = 16,
        tokenizer: str | None = None,
        embedding_dim: int = 16,
        embedding_dims: Mapping[str, int] | None = None,
        embedding_init_std: float = 0.01,
        sequence_encoder: str = "mean",
        readout: str = "mean",
        tower_hidden_dims: Sequence[int] = (64,),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("readout", readout, READOUTS)
        if backbone not in BACKBONES:
            raise unknown("model", backbone, BACKBONES)
        self.spec, self.readout = spec, readout
        self.embedding = FieldEmbedding(
            spec,
            embedding_dim=embedding_dim,
            embedding_dims=embedding_dims,
            sequence_encoder=sequence_encoder,
            init_std=embedding_init_std,
        )
        tokenizer = tokenizer or BACKBONES[backbone].default_tokenizer
        pieces = self.embedding.pieces
        fields = tokenizer == "field"
        num_tokens = len(pieces) if fields else num_tokens
        given = _backbone_arguments(backbone, size, num_tokens, embedding_dim if fields else None, dict(options or {}))
        self.backbone = build_backbone(backbone, **given)
        self.tokenizer = build_tokenizer(tokenizer, pieces, num_tokens=num_tokens, token_dim=self.backbone.token_dim)
        tokens_out = self.backbone.readout == "tokens"
        width = self.backbone.out_dim
        if tokens_out and readout == "flatten":
            width = self.backbone.num_tokens * self.backbone.token_dim
        self.towers = TaskTowers(width, len(spec.labels), tower_hidden_dims)

    def score(self, embedded: Tensor) -> Tensor:
        """The dense part, from the vector E to logits: ``(B, E)`` to ``(B, tasks)``."""
        hidden: Tensor = self.backbone(self.tokenizer(embedded))
        if self.backbone.readout == "tokens":
            hidden = hidden.mean(1) if self.readout == "mean" else hidden.flatten(1)
        logits: Tensor = self.towers(hidden)
        return logits

    def forward(self, batch: Batch) -> Tensor:
        return self.score(self.embedding(batch))


def _backbone_arguments(
    backbone: str, size: float | None, num_tokens: int, token_dim: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The backbone's keyword arguments: given options, and for the others what the dial says."""
    check_options(backbone, options)
    if "num_tokens" in options:
        raise UnimixerError("options: num_tokens is an argument of the Ranker itself; leave it out of the options")
    if token_dim is not None:
        options.setdefault("token_dim", token_dim)
    if size is not None:
        rest = {name: value for name, value in options.items() if name != "token_dim"}
        found = BACKBONES[backbone].dimensions(size, num_tokens=num_tokens, token_dim=options.get("token_dim"), **rest)
        options = {**found, **options}
    return {"num_tokens": num_tokens, **options}


def table_parameters(ranker: Ranker) -> list[nn.Parameter]:
    """Weights of the embedding tables, whose gradients are row-sparse."""
    return list(ranker.embedding.tables.parameters())


def dense_parameters(ranker: Ranker) -> list[nn.Parameter]:
    """Everything else: what a budget counts."""
    tables = {id(p) for p in table_parameters(ranker)}
    return [p for p in ranker.parameters() if id(p) not in tables]


def count_dense(ranker: Ranker) -> int:
    """Number of dense parameters."""
    return sum(p.numel() for p in dense_parameters(ranker))


def size_for_budget(spec: FeatureSpec, *, dense_params: int, tolerance: float = 0.02, **arguments: Any) -> float:
    """The dial at which ``Ranker(spec, size=..., **arguments)`` has ``dense_params`` dense parameters.

    Raises:
        UnimixerError: if no size comes within ``tolerance``, with the nearest counts.
    """
    if arguments.get("size") is not None:
        raise UnimixerError("give size or dense_params, not both: the budget chooses the size")
    # tables do not count, so they are left tiny: only shapes matter on the meta device
    small = FeatureSpec(spec.ids, spec.dense, spec.sequences, dict.fromkeys(spec.tables, 2), spec.labels)
    arguments = {**arguments, "size": None}

    def count(size: float) -> int:
        with torch.device("meta"):
            return count_dense(Ranker(small, **{**arguments, "size": size}))

    return solve_size(count, dense_params, tolerance=tolerance)
