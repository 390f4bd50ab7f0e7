"""The sizes of a sweep: from a range on the command line to budgets, and from a budget to depth and width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unimixer.backbones.registry import backbone_class
from unimixer.errors import UnimixerError, check_choice

DIALS = ("width", "depth", "both")
DEPTHS = ("num_blocks", "num_layers", "num_crosses")
"""What the backbones call their number of blocks."""
SHARE_OF_DEPTH = {"width": 0.0, "depth": 1.0, "both": 1 / 3}
"""Power of the budget with which blocks grow: parameters go as blocks times width squared, so at one third blocks and
width grow alike."""
FEWEST_POINTS, STEP = 5, 4.0

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}


def parse_sizes(text: str, points: int | None = None) -> list[int]:
    """Budgets in dense parameters: a list, or a range that grows by one factor.

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
        return sorted(dict.fromkeys(_count(part, text) for part in text.split(",") if part.strip()))
    ends = [_count(part, text) for part in text.split("..")]
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise UnimixerError(f"sizes {text!r}: a range goes from a smaller to a larger size, for example 0.25M..64M")
    number = max(FEWEST_POINTS, round(math.log(ends[1] / ends[0], STEP)) + 1) if points is None else points
    if number < 2:
        raise UnimixerError(f"--points {number}: a range has at least its two ends")
    factor = (ends[1] / ends[0]) ** (1 / (number - 1))
    return [ends[0], *(round(float(f"{ends[0] * factor**place:.3g}")) for place in range(1, number - 1)), ends[1]]


def _count(part: str, text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", part)
    if match is None or float(match[1]) <= 0:
        raise UnimixerError(f"sizes {text!r}: {part.strip()!r} is not a number of parameters such as 250K or 1.5M")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def depth_option(backbone: str) -> str | None:
    """The option that sets a backbone's number of blocks, None where it has none."""
    options = backbone_class(backbone).options()
    return next((name for name in DEPTHS if name in options), None)


def with_depth(backbone: str, options: Mapping[str, Any], dial: str, *, budget: int, smallest: int) -> dict[str, Any]:
    r"""The options of a model at a budget: its number of blocks grows with it, and the width then meets the budget.

    .. math:: M(N) = \max(1, \mathrm{round}(M_0\, (N / N_0)^d)), \qquad d = 0, 1, 1/3

    for the dials ``width``, ``depth`` and ``both``, with :math:`M_0` the blocks that the model has by itself, or by
    its options, at the smallest budget :math:`N_0`.

    Args:
        backbone: name in the registry.
        options: as given for the model.
        dial: ``width``, ``depth`` or ``both``.
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


def second_anchor(sizes: Sequence[int]) -> int:
    """The second size of a search at two: the one nearest to eight times the smallest, about three times as wide.

    Example:
        >>> second_anchor([250_000, 1_000_000, 4_000_000, 16_000_000])
        4000000
    """
    if len(sizes) < 2:
        raise UnimixerError("a search at two sizes needs two sizes; give more --sizes, or --lr-search smallest")
    return min(sorted(sizes)[1:], key=lambda size: (round(abs(math.log(size / (8 * min(sizes)))), 9), -size))
