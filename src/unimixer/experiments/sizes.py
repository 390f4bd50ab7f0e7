"""Sizes and budgets: parse them, turn a budget into depth and width, count the FLOPs of a ranker."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from unimixer.backbones import meet_budget, solve_width
from unimixer.backbones.base import StackBackbone
from unimixer.backbones.budget import once_a_size, width_arguments
from unimixer.backbones.registry import backbone_class
from unimixer.errors import UnimixerError, check_choice
from unimixer.features.spec import FeatureSpec
from unimixer.models import changeable, ranker_sizes
from unimixer.profiling.flops import flops_a_row
from unimixer.ranker import Ranker

DIALS = ("width", "depth", "both")
DEPTHS = ("num_blocks", "num_layers", "num_crosses")
"""Names that backbones give to their number of blocks."""
SHARE_OF_DEPTH = {"width": 0.0, "depth": 1.0, "both": 1 / 3}
"""Power of the budget with which blocks grow. Parameters grow as blocks times width squared, so at one third blocks and
width grow alike."""
FEWEST_POINTS, STEP = 5, 4.0

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}

TOLERANCE = 0.02
"""Largest relative miss of a budget."""
WIDEST_TOKEN, LARGEST_LEAP = 2_048, 4
"""Token widths that are tried for FLOPs, up to the first one that costs this many times the budget. The same factor
bounds the hidden width against the usual one: beyond it the model is another one."""


def parse_sizes(text: str, points: int | None = None) -> list[int]:
    """Parse budgets in dense parameters: a list, or a range whose sizes grow by one factor.

    Args:
        text: ``0.25M,1M,4M`` or ``0.25M..64M``.
        points: sizes of a range (default: a factor of 4 between two, and at least 5 sizes).

    Example:
        >>> parse_sizes("250K..64M")
        [250000, 1000000, 4000000, 16000000, 64000000]
        >>> parse_sizes("1M,250K")
        [250000, 1000000]
    """
    if ".." not in text:
        if points is not None:
            raise UnimixerError(f"--points {points} belongs to a range such as 0.25M..64M; {text!r} is a list")
        sizes = sorted(_count(part, text) for part in text.split(",") if part.strip())
        if not sizes:
            raise UnimixerError(f"sizes {text!r}: no size is named; give one or more, such as 250K,1M")
        twice = next((size for size, following in pairwise(sizes) if size == following), None)
        if twice is not None:
            raise UnimixerError(f"sizes {text!r}: {short(twice)} is named twice; give each once")
        return sizes
    ends = [_count(part, text) for part in text.split("..")]
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise UnimixerError(f"sizes {text!r}: a range goes from a smaller to a larger size, for example 0.25M..64M")
    number = max(FEWEST_POINTS, round(math.log(ends[1] / ends[0], STEP)) + 1) if points is None else points
    if number < 2:
        raise UnimixerError(f"--points {number}: a range has at least its two ends")
    factor = (ends[1] / ends[0]) ** (1 / (number - 1))
    return [ends[0], *(round(float(f"{ends[0] * factor**step:.3g}")) for step in range(1, number - 1)), ends[1]]


def _count(part: str, text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", part)
    if match is None or float(match[1]) <= 0:
        raise UnimixerError(f"sizes {text!r}: {part.strip()!r} is not a number of parameters such as 250K or 1.5M")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def depth_option(backbone: str) -> str | None:
    """Return the option that sets a backbone's number of blocks, or None if it has none."""
    options = backbone_class(backbone).options()
    return next((name for name in DEPTHS if name in options), None)


def with_depth(backbone: str, options: Mapping[str, Any], dial: str, *, budget: int, smallest: int) -> dict[str, Any]:
    r"""Set the number of blocks that a model has at a budget; its width then meets the budget.

    .. math:: M(N) = \max(1, \mathrm{round}(M_0\, (N / N_0)^d)), \qquad d = 0, 1, 1/3

    for ``width``, ``depth`` and ``both``, with :math:`M_0` the model's number of blocks at the smallest budget
    :math:`N_0`: its default, or the one of its options.

    Args:
        backbone: name in the registry.
        options: options of the model.
        dial: what grows: ``width``, ``depth`` or ``both``.
        budget: N.
        smallest: :math:`N_0`.

    Example:
        >>> with_depth("rankmixer", {"num_blocks": 2}, "both", budget=8_000_000, smallest=1_000_000)
        {'num_blocks': 4}
    """
    check_choice("dial", dial, DIALS)
    if dial == "width":
        return dict(options)
    name = depth_option(backbone)
    if name is None:
        raise UnimixerError(f"backbone {backbone!r} has no number of blocks to grow; take --dial width for it")
    blocks = int(options.get(name) or backbone_class(backbone).options()[name].default or 1)
    return {**options, name: max(1, round(blocks * (budget / smallest) ** SHARE_OF_DEPTH[dial]))}


def second_base_size(sizes: Sequence[int]) -> int:
    """Choose the second size of a search at two: the nearest to eight times the smallest, about three times as wide.

    Example:
        >>> second_base_size([250_000, 1_000_000, 4_000_000, 16_000_000])
        4000000
    """
    if len(sizes) < 2:
        raise UnimixerError("a search at two sizes needs two sizes; give more --sizes, or --lr-search smallest")
    return min(sorted(sizes)[1:], key=lambda size: (round(abs(math.log(size / (8 * min(sizes)))), 9), -size))


BUDGETS = {"params": "{} parameters", "flops": "{} FLOPs a sample", "width": "width {}"}
"""Kinds of budgets, in words."""


def budget_words(kind: str, amount: int) -> str:
    """Write a budget in words.

    Example:
        >>> budget_words("params", 4_000_000), budget_words("width", 64)
        ('4M parameters', 'width 64')
    """
    return BUDGETS[kind].format(short(amount))


def sizes_at_width(backbone: str, width: int, options: Mapping[str, Any]) -> dict[str, int]:
    """Return token width and hidden width of a stack of tokens at a width, whatever its mixing then costs.

    Another backbone has one width, which it gets as a model does in a recipe.

    Example:
        >>> sizes_at_width("rankmixer", 64, {"expansion": 0.75})
        {'token_dim': 64, 'hidden_dim': 48}
    """
    known = {**{name: option.default for name, option in backbone_class(backbone).options().items()}, **options}
    if not issubclass(backbone_class(backbone), StackBackbone):
        return {}
    hidden = {"hidden_dim": round(known["expansion"] * width)} if "expansion" in known else {}
    return {"token_dim": width, **hidden}


def short(count: int) -> str:
    """Write a budget with K, M or B.

    Example:
        >>> short(4_000_000), short(1_500), short(999)
        ('4M', '1.5K', '999')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.6g}{name}"
    return str(count)


def small_spec(spec: FeatureSpec) -> FeatureSpec:
    """Replace the tables by tiny ones: a budget counts none of their rows."""
    return replace(spec, tables=dict.fromkeys(spec.tables, 2))


def ranker_flops(spec: FeatureSpec, **arguments: Any) -> int:
    """Count the forward FLOPs of a ranker per sample: tokenizer, backbone and towers, two per multiply-add.

    Not counted are embedding lookups, sequence encoders below the vector E, which are the same for every model with
    the same setting, and work done once per step whatever the batch, see
    :func:`~unimixer.profiling.flops.count_flops`.

    Args:
        spec: shapes of the encoded data.
        arguments: of :class:`~unimixer.ranker.Ranker`.
    """
    hollow = arguments.get("sequences", "pooled") == "pooled"
    with torch.device("meta" if hollow else "cpu"):  # models that read events look at their numbers
        ranker = Ranker(small_spec(spec), **{**arguments, "managed_embeddings": None})
    width = sum(field.width for field in ranker.embedding.slices)

    def inputs(rows: int) -> tuple[Tensor, ...]:
        tensors = [torch.zeros(rows, width, device="cpu")]
        for group in ranker.embedding.event_groups:
            tensors += [torch.zeros(rows, group.max_length, group.width), torch.full((rows,), group.max_length)]
        return tuple(tensors)

    return flops_a_row(ranker, inputs, method="score", hollow=hollow)


def size_for_flops(
    spec: FeatureSpec, *, flops: int, tolerance: float = TOLERANCE, **arguments: Any
) -> tuple[float, dict[str, int]]:
    """Find the size at which a ranker has a number of forward FLOPs per sample.

    The size is a width, from which token and hidden width follow. Where token widths move in steps that are too coarse,
    as those of a mixing between all blocks do, a token width is kept and the hidden width alone meets the budget: the
    token width whose hidden width is nearest to the usual one, at most four times and at least a quarter of it.

    Args:
        spec: shapes of the encoded data.
        flops: the budget.
        tolerance: largest relative miss.
        arguments: of the ranker, without its size.

    Returns:
        The width, and the options that keep a token width, if any.

    Raises:
        UnimixerError: if no size comes within ``tolerance``, with what to change.
    """
    own: dict[str, Any] = {**(arguments.get("options") or {})}
    changes = changeable(arguments)
    free = "num_tokens" in changes and arguments.get("sequences", "pooled") == "pooled"
    name, shape = arguments["backbone"], {"num_tokens": changes.get("num_tokens"), **own}

    count = once_a_size(partial(ranker_flops, spec), ranker_sizes(small_spec(spec)))

    def solve(kept: Mapping[str, int]) -> float:
        others = {**arguments, "options": {**own, **kept}}
        return solve_width(lambda width: count(**others, width=width), flops, tolerance=tolerance, what="flops")

    try:
        return solve({}), {}
    except UnimixerError:
        # how far the hidden width is from the usual one, the width, the token width
        fitting: list[tuple[float, float, int]] = []
        for token_dim in _token_widths(name, shape) if free else ():
            with suppress(UnimixerError):  # no model has this width, or none meets the budget
                smallest = {**own, "token_dim": token_dim, "hidden_dim": 1}
                if count(**{**arguments, "options": smallest}) > flops * LARGEST_LEAP:
                    break
                width = solve({"token_dim": token_dim})
                hidden = width_arguments(name, width, **shape, token_dim=token_dim)["hidden_dim"]
                usual = sizes_at_width(name, token_dim, own)["hidden_dim"]
                fitting.append((abs(math.log(hidden / usual)), width, token_dim))
                if hidden < usual:  # that of a wider token is further from it
                    break
        if fitting and min(fitting)[0] <= math.log(LARGEST_LEAP):
            _, width, token_dim = min(fitting)
            return width, {"token_dim": token_dim}
    # nothing meets it: the error says what could be changed
    return meet_budget(count, arguments, flops, tolerance=tolerance, what="flops", changeable=changes), {}


def _token_widths(backbone: str, shape: Mapping[str, Any]) -> list[int]:
    """List the token widths of a stack whose token and hidden width are both free; other models have none."""
    known, token_widths = backbone_class(backbone).options(), set()
    if not {"token_dim", "hidden_dim"} <= set(known) or {"token_dim", "hidden_dim"} & set(shape):
        return []
    for width in range(1, WIDEST_TOKEN):
        with suppress(UnimixerError):  # a width of which there is no model
            token_widths.add(int(width_arguments(backbone, width, **shape)["token_dim"]))
    return sorted(token_widths)
