"""Named ablations: variants of a model that change one thing each.

The list is that of arXiv:2604.00590 (its ablation table, its tables of basis number, rank and depth), and what the
paper leaves open: the start of the mixing matrices, tokenizer, read-out, the shape of the stack, and the recipe around
it (optimizers, averages of weights, dropout, bounds and crosses of logits). Two models can be the base, because ours
is not the paper's: ``paper`` is its stack, SiameseNorm and a warm-up run at temperature 1 before the run at 0.05, from
random matrices; ``default`` is what measures best here, post-norm and a constant low temperature from a start that is
the rule of TokenMixer.

A warm-up is a second pass over the data. Where the base has it, ``no temperature`` and ``no warm-up`` keep the second
pass and change its temperature, or that of the first, so that steps are equal; the same with one pass stands beside.

The number of Sinkhorn iterations is no ablation: matrices are scaled to a tolerance however many steps that takes, and
the gradient is that of the solution, so there is no such number to choose. The sharpness that few iterations would
cost is what ``tau_end`` varies, and doing without is ``no Sinkhorn``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unimixer.backbones.registry import backbone_class
from unimixer.blocks import POOLINGS
from unimixer.errors import UnimixerError, check_choice, unknown
from unimixer.experiments.models import EMBEDDING_LR, MODEL_KEYS, Variant, parse_variant
from unimixer.training.config import Recipe

GROUPS = ("paper", "basis", "rank", "depth", "residual", "expansion", "tokens", "tokenizer", "pooling", "recipe")
TASKS = "tasks"
"""Group of the variants that share a model among several tasks; it runs where it is named, on data of several tasks."""
FEATURES = "features"
"""Group of the variants that do not read a part of the input."""
BASES = ("paper", "default")
LEARNED = ("unimixer", "unimixer-lite")
"""Backbones with the learned mixing that the paper ablates."""

PAPER_STACK: dict[str, dict[str, Any]] = {
    "options": {"matrices": "blocks", "residual": "siamese", "init": "random", "block_size": 6},
    "recipe": {"temperature.schedule": "two-stage", "temperature.start": 1.0, "temperature.end": 0.05},
}
"""The paper's model, with the block size of its figure. The paper does not say how raw matrices start; random is the
plain reading."""

BLOCKS = (2, 4, 6, 8)
_FLAT, _RAW = 0.02, 0.1

Change = tuple[str, dict[str, Any], dict[str, Any]]
"""Name, options of the backbone, keys of the recipe."""

_CONSTRAINTS: tuple[Change, ...] = (
    ("no symmetry", {"symmetric": False}, {}),
    ("shared local weights", {"local": "shared"}, {}),
    ("free local weights", {"local": "free"}, {}),
)

_OF_THE_PAPER: tuple[Change, ...] = (
    ("no temperature", {}, {"temperature.end": 1.0}),
    ("no warm-up", {}, {"temperature.start": 0.05}),
    ("no temperature, one pass", {}, {"temperature.schedule": "constant", "temperature.end": 1.0}),
    ("no warm-up, one pass", {}, {"temperature.schedule": "constant"}),
    ("annealing for warm-up, one pass", {}, {"temperature.schedule": "linear"}),
    *_CONSTRAINTS,
    ("Post-Norm for SiameseNorm", {"residual": "post"}, {}),
    ("Pre-Norm for SiameseNorm", {"residual": "pre"}, {}),
    # random numbers of deviation one, unscaled by Sinkhorn, would blow the tokens up
    (f"no Sinkhorn (raw deviation {_RAW})", {"constraint": "free", "init_scale": _RAW}, {}),
    ("start from the rule", {"init": "rule"}, {}),
    ("start from the identity", {"init": "identity"}, {}),
    (f"start from random, deviation {_FLAT}", {"init_scale": _FLAT}, {}),
    *((f"tau_end {tau}", {}, {"temperature.end": tau}) for tau in (0.02, 0.1, 0.2)),
    *((f"block size {size}", {"block_size": size}, {}) for size in BLOCKS),
)

_SCHEDULES: tuple[Change, ...] = (
    ("no temperature", {}, {"temperature.end": 1.0}),
    ("annealing from 1", {}, {"temperature.schedule": "linear"}),
    ("warm-up at 1, two passes", {}, {"temperature.schedule": "two-stage"}),
    ("two passes", {}, {"temperature.schedule": "two-stage", "temperature.start": 0.1}),
    *((f"tau_end {tau}", {}, {"temperature.end": tau}) for tau in (0.02, 0.05, 0.2)),
)

_STARTS: tuple[Change, ...] = (
    ("SiameseNorm for Post-Norm", {"residual": "siamese"}, {}),
    ("Pre-Norm for Post-Norm", {"residual": "pre"}, {}),
    ("start from the identity", {"init": "identity"}, {}),
    ("start from random", {"init": "random"}, {}),
    (f"start from random, deviation {_FLAT}", {"init": "random", "init_scale": _FLAT}, {}),
)

_OF_BLOCKS: tuple[Change, ...] = (
    *_SCHEDULES,
    *_CONSTRAINTS,
    *_STARTS,
    ("no Sinkhorn", {"constraint": "free"}, {}),
    *((f"block size {size}", {"block_size": size}, {}) for size in BLOCKS),
)

_OF_HEADS: tuple[Change, ...] = (
    *_SCHEDULES,
    ("symmetry", {"symmetric": True}, {}),
    *_STARTS,
    ("no Sinkhorn", {"constraint": "free", "init_scale": 1.0}, {}),
    *((f"start {scale} above", {"init_scale": scale}, {}) for scale in (0.3, 1.0)),
    ("a matrix between all blocks", {"matrices": "blocks"}, {}),
)

_OF_THE_RECIPE: tuple[Change, ...] = (
    ("Muon for matrices", {}, {"optimizer.dense": "muon"}),
    ("AdamW, weight decay 0.01", {}, {"optimizer.dense": "adamw", "optimizer.weight_decay": 0.01}),
    ("Adagrad for tables, rate 0.05", {}, {"optimizer.sparse": "rowwise_adagrad", EMBEDDING_LR: 0.05}),
    ("cosine decay", {}, {"optimizer.decay": "cosine"}),
    ("EMA of weights, decay 0.999", {}, {"averaging.kind": "ema", "averaging.decay": 0.999}),
    ("SWA of weights, last quarter", {}, {"averaging.kind": "swa", "averaging.start": 0.75}),
    ("dropout of embeddings 0.1", {}, {"model.embedding_dropout": 0.1}),
    ("logits within 20", {}, {"model.logit_clamp": 20.0}),
    ("4 crosses below the towers", {}, {"model.tower_crosses": 4}),
)

_OF_TASKS: tuple[Change, ...] = (
    ("MMoE", {}, {"model.task_head": "mmoe"}),
    ("CGC", {}, {"model.task_head": "ple", "model.task_head_options": {"num_levels": 1}}),
    ("PLE", {}, {"model.task_head": "ple"}),
    ("losses by uncertainty", {}, {"loss_weighting.kind": "uncertainty"}),
    ("losses by GradNorm", {}, {"loss_weighting.kind": "gradnorm"}),
)

_RESIDUALS: tuple[Change, ...] = (
    ("Post-Norm", {"residual": "post"}, {}),
    ("no Add&Norm after the mixing", {"residual": "bare-mixing"}, {}),
    ("Pre-Norm", {"residual": "pre"}, {}),
    ("SiameseNorm", {"residual": "siamese"}, {}),
)

BASIS, RANK, DEPTH = (2, 4, 8), (2, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8)
EXPANSIONS, TOKENS = (0.5, 1.0, 2.0, 4.0), (4, 8, 16, 32, 64)
TOKENIZERS = ("chunk", "semantic", "random", "field")


def ablations(
    model: str,
    *,
    groups: Sequence[str] = (),
    start: str = "paper",
    grow: bool = False,
    recipe: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
) -> tuple[list[Variant], dict[str, str]]:
    """Return the variants of an ablation, the base first, and the reasons why groups are left out.

    Args:
        model: the backbone, with options as in :func:`~unimixer.experiments.models.parse_variant`.
        groups: of :data:`GROUPS` (default: all that the model has), or :data:`TASKS`.
        start: ``"paper"`` or ``"default"``; other models than UniMixer and UniMixing-Lite have the default alone.
        without: features, histories or domains; a variant a name does not read it. They come first, and alone where no
            groups are named.
        grow: give variants of basis, rank and depth the base's width, so that their cost grows as in the paper's
            tables; otherwise every variant meets the budget.
        recipe: dotted keys that all models of the study have.

    Example:
        >>> variants, _ = ablations("unimixer", groups=["paper"])
        >>> [variant.label for variant in variants][:3]
        ['unimixer (paper)', 'unimixer (paper): no temperature', 'unimixer (paper): no warm-up']
    """
    check_choice("--from", start, BASES)
    for group in groups:
        if group not in (*GROUPS, TASKS):
            raise unknown("group", group, (*GROUPS, TASKS))
    base = _base(model, start)
    left_out: dict[str, str] = {}
    variants = [
        base,
        *(_changed(base, FEATURES, (f"without {name}", {}, {"model.ignored_features": [name]})) for name in without),
    ]
    for group in groups or (() if without else GROUPS):
        reason = _missing(base.backbone, group)
        if reason is None:
            variants += _group(group, base, start, grow)
        elif groups:
            raise UnimixerError(f"group {group!r}: {reason}")
        else:
            left_out[group] = reason
    return _different(variants, recipe or {}), left_out


def _base(model: str, start: str) -> Variant:
    variant = Variant.model_validate(parse_variant(model))
    if start == "default" or variant.backbone not in LEARNED:
        return variant
    label = f"{variant.label} (paper)"
    options, recipe = {**PAPER_STACK["options"], **variant.options}, {**PAPER_STACK["recipe"], **variant.recipe}
    return variant.model_copy(update={"label": label, "options": options, "recipe": recipe})


def _missing(backbone: str, group: str) -> str | None:
    """Return the reason why a backbone has no such group, or None if it has it."""
    if group == "paper":
        return None if backbone in LEARNED else f"{backbone} has no learned mixing; {' and '.join(LEARNED)} have"
    options = {"basis": "num_basis", "rank": "rank", "depth": "num_blocks"}
    option = {**options, "residual": "residual", "expansion": "expansion"}.get(group)
    if group in ("basis", "rank"):
        return None if backbone == "unimixer-lite" else f"{backbone} has none; pass --model unimixer-lite"
    if option is not None and option not in backbone_class(backbone).options():
        return f"{backbone} has no option {option}"
    if group == "tokens" and backbone_class(backbone).default_tokenizer == "field":
        return f"{backbone} has one token a field"
    if group == "pooling" and backbone_class(backbone).output_kind != "tokens":
        return f"{backbone} gives one vector, not tokens"
    return None


def _group(group: str, base: Variant, start: str, grow: bool) -> list[Variant]:
    """Return the variants of one group."""
    size_of = base.label if grow else None
    if group == "paper":
        own = _OF_HEADS if _all_options(base)["matrices"] == "heads" else _OF_BLOCKS
        return [_changed(base, group, change) for change in (_OF_THE_PAPER if start == "paper" else own)]
    blocks = {"matrices": "blocks"} if group in ("basis", "rank") else {}
    lists: dict[str, Sequence[Change]] = {
        "basis": [(f"{n} basis matrices", {"num_basis": n, **blocks}, {}) for n in BASIS],
        "rank": [(f"rank {n}", {"rank": n, **blocks}, {}) for n in RANK],
        "depth": [(f"{n} block{'s' if n > 1 else ''}", {"num_blocks": n}, {}) for n in DEPTH],
        "residual": _RESIDUALS,
        "expansion": [(f"expansion {ratio:g}", {"expansion": ratio}, {}) for ratio in EXPANSIONS],
        "tokens": [(f"{n} tokens", {}, {"model.num_tokens": n}) for n in TOKENS],
        "tokenizer": [(f"{name} tokenizer", {}, {"model.tokenizer": name}) for name in TOKENIZERS],
        "pooling": [(f"{name} read-out", {}, {"model.pooling": name}) for name in POOLINGS],
        "recipe": _OF_THE_RECIPE,
        TASKS: _OF_TASKS,
    }
    changes = lists[group]
    grown = size_of if group in ("basis", "rank", "depth") else None
    variants = [_changed(base, group, change, grown) for change in changes]
    if group == "depth" and base.backbone != "rankmixer":
        variants += _depth_of_rankmixer(grow)
    return variants


def _depth_of_rankmixer(grow: bool) -> list[Variant]:
    """Return RankMixer at the same depths: the paper's point is that depth does not help it."""
    two = Variant(backbone="rankmixer", group="depth", label="rankmixer")
    changes: list[Change] = [(f"{n} block{'s' if n > 1 else ''}", {"num_blocks": n}, {}) for n in DEPTH if n != 2]
    return [two, *(_changed(two, "depth", change, two.label if grow else None) for change in changes)]


def _changed(base: Variant, group: str, change: Change, size_of: str | None = None) -> Variant:
    name, options, recipe = change
    return Variant(
        backbone=base.backbone,
        label=f"{base.label}: {name}",
        group=group,
        options={**base.options, **options},
        recipe={**base.recipe, **recipe},
        size_of=size_of,
    )


def _different(variants: Sequence[Variant], recipe: Mapping[str, Any]) -> list[Variant]:
    """Drop variants that change nothing, such as rank 16 of a base whose rank is 16."""
    seen, distinct = [], []
    for variant in variants:
        content = variant.backbone, _all_options(variant), _all_keys(variant, recipe)
        if content not in seen:
            seen.append(content)
            distinct.append(variant)
    return distinct


def _all_options(variant: Variant) -> dict[str, Any]:
    """Return the options with the constructor's defaults."""
    defaults = {name: option.default for name, option in backbone_class(variant.backbone).options().items()}
    return {**defaults, **variant.options}


def _all_keys(variant: Variant, recipe: Mapping[str, Any]) -> dict[str, Any]:
    sections = Recipe(name="defaults", dataset="none").model_dump()
    defaults = {key: sections[key.partition(".")[0]][key.partition(".")[2]] for key in MODEL_KEYS}
    defaults["model.tokenizer"] = backbone_class(variant.backbone).default_tokenizer
    return {**defaults, **recipe, **variant.recipe}
