"""Compare all backbones: their mixing patterns, parameters and FLOPs."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from unimixer.backbones.base import Backbone
from unimixer.backbones.budget import count_parameters
from unimixer.backbones.registry import BACKBONES, backbone_class, build_backbone
from unimixer.profiling.flops import count_flops

NUM_TOKENS = 16
FIELD_DIM = 16
"""Width of a token where the backbone leaves it to the embedding tables."""
LARGEST_WIDTH, WIDTH_STEP = 512.0, 1.005
"""The largest width of the search for gaps between sizes, and the factor of a step, which is 1% of the parameters."""


@dataclass(frozen=True)
class Overview:
    """One backbone at its default size."""

    name: str
    family: str
    local_pattern: str
    """What happens inside a block, in words: the local mixing of arXiv:2604.00590."""
    global_pattern: str
    """What happens between blocks."""
    tokenizer: str
    token_dim: int
    parameters: int
    flops: int
    """For one example, forward, see :func:`~unimixer.profiling.flops.count_flops`."""


def default_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone of its default size for 16 tokens on the meta device.

    Example:
        >>> default_backbone("rankmixer").patterns()
        ('identity', 'fixed permutation')
    """
    width = _own_width(backbone_class(name))
    with torch.device("meta"):
        return build_backbone(name, num_tokens=NUM_TOKENS, **({} if width is None else {"token_dim": width}), **options)


def _own_width(cls: type[Backbone]) -> int | None:
    """The width of a token where the backbone does not set it."""
    needed = cls.options()["token_dim"].default is inspect.Parameter.empty
    return FIELD_DIM if needed or cls.default_tokenizer == "field" else None


def overview(name: str, **options: Any) -> Overview:
    """Describe one backbone at its default size, with some options.

    Example:
        >>> overview("rankmixer").parameters, overview("rankmixer").flops
        (1059328, 2097152)
    """
    cls, built = backbone_class(name), default_backbone(name, **options)
    label = ":".join([name, *(f"{key}={value}" for key, value in options.items())])
    return Overview(
        label, cls.family, *built.patterns(), cls.default_tokenizer, built.token_dim, count_parameters(built),
        count_flops(built),
    )  # fmt: skip


def any_budget_from(name: str, *, num_tokens: int = NUM_TOKENS, tolerance: float = 0.02) -> int:
    """Find the number of parameters from which on every budget is met, by the closed formula.

    Widths are whole numbers, those of mixers multiples of T, so sizes of a small model lie far apart.

    Args:
        name: of the backbone, which gets default options.
        num_tokens: T.
        tolerance: largest relative miss.

    Example:
        >>> any_budget_from("rankmixer", num_tokens=8)
        6720
    """
    cls = backbone_class(name)
    shape = {"num_tokens": num_tokens, "token_dim": _own_width(cls)}
    fixed = {key: value for key, value in shape.items() if value is not None}

    def count(width: float) -> int:
        return cls.formula(**{**fixed, **cls.dimensions(width, **shape)})  # type: ignore[arg-type]

    steps = range(round(math.log(LARGEST_WIDTH, WIDTH_STEP)) + 1)
    counts = sorted({count(WIDTH_STEP**step) for step in steps})  # rounding lets a larger width have fewer
    gaps = [above for below, above in pairwise(counts) if below * (1 + tolerance) < above * (1 - tolerance)]
    return gaps[-1] if gaps else counts[0]


def overviews() -> list[Overview]:
    """Describe all backbones, in the order of the registry, each followed by its variants."""
    return [overview(name, **options) for name, cls in BACKBONES.items() for options in ({}, *cls.variants)]
