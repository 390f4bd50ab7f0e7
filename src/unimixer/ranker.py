"""Ranker = features -> tokens -> backbone -> task towers -> logits: an ordinary nn.Module for anyone's loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, build_backbone
from unimixer.backbones.budget import width_arguments
from unimixer.backbones.registry import backbone_name, check_options
from unimixer.blocks import TaskTowers, Transient, build_pooling, build_task_experts, chain_links, joint_logits
from unimixer.errors import UnimixerError, check_choice, check_positive, unknown
from unimixer.features.batch import Batch
from unimixer.features.embedding_options import EmbeddingOptions
from unimixer.features.events import SEQUENCES, EventEmbedding, EventGroup, SequenceTokens
from unimixer.features.fields import FieldEmbedding
from unimixer.features.spec import FeatureSpec
from unimixer.features.tokenizers import build_tokenizer

TABLES = "embedding.tables."
"""Names of the parameters of embedding tables begin with this."""
PACKED = TABLES + "packed.{width}.weight"
"""Name of the weight of all tables of one width."""


@dataclass(frozen=True, kw_only=True)
class RankerOptions(EmbeddingOptions):
    """Keyword arguments of :class:`Ranker`; their meaning is there."""

    backbone: str = "unimixer-lite"
    width: float | None = None
    num_tokens: int = 16
    tokenizer: str | None = None
    sequences: str = "pooled"
    sequence_tokens: int = 2
    sequence_dim: int | None = None
    pooling: str = "mean"
    tower_hidden_dims: Sequence[int] = (64,)
    tower_crosses: int = 0
    task_head: str = "shared_bottom"
    task_head_options: Mapping[str, Any] | None = None
    chain: Mapping[str, str] | None = None
    embedding_dropout: float = 0.0
    logit_clamp: float | None = None
    options: Mapping[str, Any] | None = None


class Ranker(Transient):
    """Scores impressions. Knows no paths, no device and no optimizer.

    Where the backbone gives intermediate tokens, each has task towers of its own that run in training alone; the loop
    adds a loss on :meth:`pop_auxiliary_logits`, and on :func:`~unimixer.blocks.pop_penalties` where there are any.

    Args:
        spec: shapes of the encoded data.
        backbone: a name in ``unimixer.backbones.BACKBONES``.
        width: the backbone's width, from which token and hidden widths follow (default: the backbone's own).
        num_tokens: tokens T (ignored by the ``field`` tokenizer, where T is the number of fields).
        tokenizer: ``chunk``, ``semantic``, ``random`` or ``field`` (default: what the backbone's paper uses).
        embedding_dim: width of the embedding tables, unless ``embedding_dims`` names a table.
        sequence_encoder: ``mean`` or one of :data:`~unimixer.features.sequence_encoders.COMPARING`.
        sequence_options: keyword arguments of the sequence encoder.
        sequence_search: searches of long histories before they are encoded, by history:
            :class:`~unimixer.features.search.HistorySearch`.
        sequences: where behaviour sequences enter. ``pooled``: into the vector E, by the sequence encoder. ``tokens``:
            as tokens of their own behind those of the tokenizer, see
            :class:`~unimixer.features.events.SequenceTokens`; ``num_tokens`` counts both (with the ``field`` tokenizer
            they come on top). ``cross_attention``: every block of the backbone attends to the events (MixFormer), see
            :class:`~unimixer.blocks.CrossAttention`; for backbones with the option ``sequence_dim``. In the latter two
            E is without behaviour sequences.
        sequence_tokens: tokens of a sequence, for ``tokens``.
        sequence_dim: width of an event inside the stack (default: the widest event as embedded).
        pooling: ``mean``, ``flatten`` or ``attention`` of the output tokens, see :mod:`unimixer.blocks.readout`
            (ignored by backbones that give a vector).
        tower_hidden_dims: hidden widths of each task's tower.
        tower_crosses: cross layers below the towers, see :class:`~unimixer.blocks.TaskTowers`.
        task_head: ``shared_bottom``, or experts below the towers, ``mmoe`` or ``ple``, see
            :class:`~unimixer.blocks.TaskExperts`. Towers of intermediate tokens have no experts.
        task_head_options: of ``mmoe`` and ``ple``.
        chain: by label, the one without which it does not happen, see :func:`~unimixer.blocks.joint_logits`.
        embedding_dropout: share of the numbers of E and of embedded events that training drops.
        logit_clamp: bound on the size of a tower's logit; beyond it a logit has no gradient.
        options: keyword arguments of the backbone.
        managed_embeddings: rows of tables with fewer rows than ids: the most frequent ids have a row of their own, see
            :class:`~unimixer.features.managed.ManagedIds`.
        field_order: order of the fields in E inside a domain (default: that of the schema).
        ignored_features: features, histories or domains that the model does not read; their tables stay untrained.
        table_device: where the embedding tables are made; on ``meta`` they take no memory.
        sparse_gradients: give the embedding tables row-sparse gradients, for large tables and an optimizer that takes
            them, such as ``torch.optim.SparseAdam``. Without it every optimizer of torch trains the whole model.

    Shape:
        - input: :class:`~unimixer.features.batch.Batch` of B impressions
        - output: logits ``(B, tasks)``
    """

    transient = ("auxiliary_logits", "pooled")
    auxiliary_logits: list[Tensor] | None = None
    pooled: Tensor | None = None
    """Input of the towers in the last training forward, without its graph, where ``keeps_pooled`` asks for it."""
    keeps_pooled: bool = False

    def __init__(self, spec: FeatureSpec, **options: Any) -> None:
        super().__init__()
        chosen = RankerOptions(**options)
        chosen = replace(chosen, backbone=backbone_name(chosen.backbone))
        check_choice("sequences", chosen.sequences, SEQUENCES)
        if chosen.backbone not in BACKBONES:
            raise unknown("model", chosen.backbone, BACKBONES)
        if chosen.logit_clamp is not None:
            check_positive(logit_clamp=chosen.logit_clamp)
        self.spec, self.logit_clamp = spec, chosen.logit_clamp
        embedding = {field.name: getattr(chosen, field.name) for field in fields(EmbeddingOptions)}
        self.embedding = FieldEmbedding(spec, pool_behaviour=chosen.sequences == "pooled", **embedding)
        tokenizer = chosen.tokenizer or BACKBONES[chosen.backbone].default_tokenizer
        groups = self.embedding.event_groups
        event_width = _event_width(chosen, groups)
        appended = chosen.sequence_tokens * len(groups) if chosen.sequences == "tokens" else 0
        by_field = tokenizer == "field"
        num_tokens = len(self.embedding.slices) + appended if by_field else chosen.num_tokens
        fixed = _fixed_arguments(chosen, num_tokens, event_width, token_dim=chosen.embedding_dim if by_field else None)
        sizes = {} if chosen.width is None else width_arguments(chosen.backbone, chosen.width, **fixed)
        self.fixed_arguments, self.backbone_arguments = fixed, {**sizes, **fixed}
        self.backbone = build_backbone(chosen.backbone, **self.backbone_arguments)
        own, token_dim = _own_tokens(num_tokens, appended), self.backbone.token_dim
        try:
            self.tokenizer = build_tokenizer(
                tokenizer,
                self.embedding.slices,
                num_tokens=own,
                token_dim=token_dim,
                batch_last=self.backbone.batch_last and not appended,
            )
        except UnimixerError as error:
            note = f" ({appended} of num_tokens={num_tokens} are those of sequences)" if appended else ""
            raise UnimixerError(f"{error}{note}") from None
        self.events: EventEmbedding | None = None
        self.sequence_tokens: SequenceTokens | None = None
        if chosen.sequences == "cross_attention":
            self.events = EventEmbedding(groups, event_width)
        elif chosen.sequences == "tokens":
            self.sequence_tokens = SequenceTokens(
                groups, event_width, num_tokens=chosen.sequence_tokens, token_dim=token_dim
            )
        self.dropout = nn.Dropout(chosen.embedding_dropout)
        pooling = build_pooling(chosen.pooling, token_dim)
        self.pool = pooling if self.backbone.output_kind == "tokens" else nn.Identity()
        pooled = token_dim * (self.backbone.num_tokens if chosen.pooling == "flatten" else 1)
        tower_input = pooled if self.backbone.output_kind == "tokens" else self.backbone.out_dim
        tower_input += self.backbone.bypass_dim
        num_tasks, hidden_dims = len(spec.labels), chosen.tower_hidden_dims
        self.links = chain_links(chosen.chain or {}, spec.labels, spec.soft_labels)
        experts = build_task_experts(chosen.task_head, tower_input, num_tasks, chosen.task_head_options)
        self.towers = TaskTowers(tower_input, num_tasks, hidden_dims, chosen.tower_crosses, experts)
        self.auxiliary_towers = nn.ModuleList(
            TaskTowers(pooled, num_tasks, hidden_dims) for _ in range(self.backbone.num_auxiliary)
        )

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tables' part, a batch to what :meth:`score` takes: E, and where E is without them the histories."""
        return (self.embedding(batch), *self.embedding.histories(batch))

    def score(self, embedded: Tensor, *histories: Tensor) -> Tensor:
        """The dense part, what :meth:`embed` gives to logits.

        Shape:
            - embedded: ``(B, E)``; histories: none, or padded events ``(B, L, E_g)`` and lengths ``(B,)`` of each group
            - output: ``(B, tasks)``
        """
        events = [self.dropout(part) if part.is_floating_point() else part for part in histories]
        return self.score_tokens(self.tokenizer(self.dropout(embedded)), *events)

    def score_tokens(self, tokens: Tensor, *histories: Tensor) -> Tensor:
        """What follows the tokenizer.

        Shape:
            - tokens: ``(B, T, D)``; histories: as for :meth:`score`, or of one row that all rows share
            - output: ``(B, tasks)``
        """
        if self.sequence_tokens is not None:
            appended = self.sequence_tokens(histories).to(tokens.dtype)
            tokens = torch.cat([tokens, appended.expand(tokens.shape[0], -1, -1)], dim=1)
        output = self.backbone(tokens, *(() if self.events is None else self.events(histories)))
        hidden, *bypass = output if self.backbone.bypass_dim else (output,)
        pooled = self.pool(hidden) if self.backbone.output_kind == "tokens" else hidden
        pooled = torch.cat([pooled, *bypass], dim=1) if bypass else pooled
        if len(self.auxiliary_towers):
            self._score_intermediates()
        if self.keeps_pooled:
            self.pooled = pooled.detach() if self.records else None
        return self.score_pooled(pooled)

    def score_pooled(self, pooled: Tensor) -> Tensor:
        """Score the input of the towers: experts, towers, bounds and chains of logits.

        Shape:
            - pooled: ``(B, R)``; output: ``(B, tasks)``
        """
        logits: Tensor = self.towers(pooled)
        if self.logit_clamp is not None:
            logits = logits.clamp(-self.logit_clamp, self.logit_clamp)
        return self._chained(logits)

    def _chained(self, logits: Tensor) -> Tensor:
        return joint_logits(logits.float(), self.links) if self.links else logits

    def _score_intermediates(self) -> None:
        """Keep the logits of the backbone's intermediate tokens for the loss; outside training there are none."""
        intermediates, self.backbone.intermediates = self.backbone.intermediates, None
        self.auxiliary_logits = None
        if self.records and intermediates is not None:
            pairs = zip(self.auxiliary_towers, intermediates, strict=True)
            self.auxiliary_logits = [self._chained(tower(self.pool(tokens))) for tower, tokens in pairs]

    def pop_auxiliary_logits(self) -> list[Tensor]:
        """Collect and clear the logits ``(B, tasks)`` of the intermediate tokens of the last training forward."""
        logits, self.auxiliary_logits = self.auxiliary_logits or [], None
        return logits

    def forward(self, batch: Batch) -> Tensor:
        return self.score(*self.embed(batch))


def _event_width(chosen: RankerOptions, groups: Sequence[EventGroup]) -> int:
    """Width of events inside the stack; raises if the data or the backbone does not support ``sequences``."""
    sequences, sequence_dim, backbone = chosen.sequences, chosen.sequence_dim, chosen.backbone
    if "sequence_dim" in (chosen.options or {}):
        raise UnimixerError("options: sequence_dim is an argument of the Ranker itself; leave it out of the options")
    if sequences == "pooled":
        if sequence_dim is not None:
            raise UnimixerError(f"sequence_dim={sequence_dim} has no use with sequences='pooled'; leave it out")
        return 0
    if not groups:
        raise UnimixerError(f"sequences={sequences!r}: the data has no behaviour sequence; use sequences='pooled'")
    able = [name for name, kind in BACKBONES.items() if "sequence_dim" in kind.options()]
    if sequences == "cross_attention" and backbone not in able:
        raise UnimixerError(
            f"sequences='cross_attention': backbone {backbone!r} has no blocks that attend to events; those of "
            f"{', '.join(able)} do; sequences='tokens' goes with every backbone"
        )
    return max(group.width for group in groups) if sequence_dim is None else sequence_dim


def _own_tokens(num_tokens: int, appended: int) -> int:
    """Tokens that the tokenizer makes."""
    if num_tokens <= appended:
        raise UnimixerError(
            f"num_tokens={num_tokens} leaves no token for the fields: sequences take {appended}; num_tokens must be at "
            f"least {appended + 1}, or sequence_tokens lower"
        )
    return num_tokens - appended


def _fixed_arguments(chosen: RankerOptions, num_tokens: int, event_width: int, token_dim: int | None) -> dict[str, Any]:
    """Keyword arguments of the backbone that do not follow from its width."""
    options = dict(chosen.options or {})
    if chosen.sequences == "cross_attention":
        options["sequence_dim"] = event_width
    check_options(chosen.backbone, options)
    if "num_tokens" in options:
        raise UnimixerError("options: num_tokens is an argument of the Ranker itself; leave it out of the options")
    if token_dim is not None:
        options.setdefault("token_dim", token_dim)
    return {"num_tokens": num_tokens, **options}


def table_parameters(ranker: Ranker) -> list[nn.Parameter]:
    """Weights of the embedding tables, whose gradients are row-sparse with ``sparse_gradients``."""
    return list(ranker.embedding.tables.parameters())


def dense_parameters(ranker: Ranker) -> list[nn.Parameter]:
    """Everything else: what a budget counts."""
    return [p for name, p in ranker.named_parameters() if not name.startswith(TABLES)]


def count_tables(ranker: Ranker) -> int:
    """Numbers in the embedding tables, wherever they are kept."""
    tables = ranker.embedding.tables
    return sum(rows * tables.width[name] for name, rows in tables.num_embeddings.items())


def count_dense(ranker: Ranker) -> int:
    """Number of dense parameters."""
    return sum(p.numel() for p in dense_parameters(ranker))
