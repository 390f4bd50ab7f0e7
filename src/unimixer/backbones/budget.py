"""Find the width of a model from a budget of parameters, or of another cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from unimixer.backbones.base import Backbone
from unimixer.backbones.registry import backbone_class, build_backbone, check_options
from unimixer.errors import UnimixerError, check_positive

UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
"""Letters behind a number of parameters."""
SCAN = 48
"""Widths tried on either side of the crossing, where rounding makes counts jump."""


class BudgetError(UnimixerError):
    """The error that no width comes near enough to a budget.

    Attributes:
        nearest: the largest count below it and the smallest above it, as far as there are any.
    """

    def __init__(self, message: str, nearest: tuple[int, ...]) -> None:
        super().__init__(message)
        self.nearest = nearest


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def solve_width(
    count: Callable[[float], int],
    params: int,
    *,
    low: float = 1.0,
    high: float = 65536.0,
    tolerance: float = 0.02,
    what: str = "params",
) -> float:
    """Find the width whose parameter count, or any other cost that grows with it, is nearest to ``params``.

    Bisection finds where a roughly monotone count crosses the budget, a scan around it the nearest count.

    Args:
        count: parameters of a model at a width.
        params: the budget.
        low: smallest width.
        high: largest width.
        tolerance: largest relative miss.
        what: name of the budget, for the message.

    Raises:
        BudgetError: with the nearest counts that can be reached, where none is within the tolerance.

    Example:
        >>> round(solve_width(lambda width: round(width) ** 2, 10_000))
        100
    """
    check_positive(params=params, low=low, high=high)
    seen: dict[float, int] = {}

    def counted(width: float) -> int:
        if width not in seen:
            seen[width] = count(width)
        return seen[width]

    def best() -> float:
        return min(seen, key=lambda width: abs(seen[width] - params))

    below, above = low, low
    while counted(above) < params and above < high:
        below, above = above, min(above * 2, high)
    while above / below > 1 + 1e-4 and abs(counted(best()) - params) > tolerance / 20 * params:
        middle = math.sqrt(below * above)
        below, above = (middle, above) if counted(middle) < params else (below, middle)
    # where the smallest width is far too large, no rounding brings the budget near
    if abs(counted(best()) - params) > tolerance * params and counted(low) < 2 * params:
        for step in range(-SCAN, SCAN + 1):
            counted(min(max(below * (1 + 0.3 * step / SCAN), low), high))
    if abs(counted(best()) - params) > tolerance * params:
        smaller = max((n for n in seen.values() if n < params), default=None)
        larger = min((n for n in seen.values() if n > params), default=None)
        nearest = tuple(n for n in (smaller, larger) if n is not None)
        kind = "nearest counts are" if len(nearest) > 1 else "smallest count is" if larger else "largest count is"
        reach = " and ".join(f"{n:,}" for n in nearest)
        raise BudgetError(f"{what}={params:,} cannot be met within {tolerance:.0%}; the {kind} {reach}", nearest)
    return best()


def once_a_size(count: Callable[..., int], sizes: Callable[..., object]) -> Callable[..., int]:
    """Count each size once: many widths round to the same sizes.

    Args:
        count: parameters, or any other cost, of a model with these arguments.
        sizes: what of the arguments the model depends on, by its ``repr``.

    Example:
        >>> count = once_a_size(lambda width: print("counted") or round(width), round)
        >>> count(3.9), count(4.1)
        counted
        (4, 4)
    """
    seen: dict[str, int] = {}

    def counted(*place: float, **arguments: Any) -> int:
        size = repr(sizes(*place, **arguments))
        if size not in seen:
            seen[size] = count(*place, **arguments)
        return seen[size]

    return counted


def meet_budget(
    count: Callable[..., int],
    arguments: Mapping[str, Any],
    budget: int,
    *,
    tolerance: float = 0.02,
    what: str = "params",
    changeable: Mapping[str, int],
) -> float:
    """Find the width at which a model of these arguments meets a budget.

    Args:
        count: parameters, or any other cost, of a model with these arguments and a ``width``.
        arguments: all but the width.
        budget: what to meet.
        tolerance: largest relative miss.
        what: name of the budget, for the message.
        changeable: arguments that could have another value, with the value that they have.

    Raises:
        BudgetError: if no width does; the message names the nearest budgets that are met, and a change of the arguments
            that meets this one.
    """

    def solve(changes: Mapping[str, int]) -> tuple[float, int]:
        changed = {**arguments, **changes}
        width = solve_width(lambda width: count(**{**changed, "width": width}), budget, tolerance=tolerance, what=what)
        return width, count(**{**changed, "width": width})

    try:
        return solve({})[0]
    except BudgetError as error:
        advice = f"take {' or '.join(str(count) for count in error.nearest)}"
        for name, value in _other_values(changeable):
            try:
                reached = solve({name: value})[1]
            except UnimixerError:  # out of reach again, or no model at all
                continue
            advice += f", or {name}={value}, which reaches {reached:,}"
            break
        else:
            smaller = [f"{name}={value}" for name, value in changeable.items() if value > 1]
            if smaller and min(error.nearest) > budget:
                advice += f", or lower {' or '.join(smaller)}"
        raise BudgetError(f"{error}; {advice}", error.nearest) from None


def _other_values(changeable: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield other values of the arguments, near ones first."""
    for name, value in changeable.items():
        for other in (value // 2, value // 4, value * 2, value // 8):
            if other > 0:
                yield name, other


def width_arguments(
    name: str, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
) -> dict[str, Any]:
    """Return the arguments of a backbone at a width.

    Example:
        >>> width_arguments("mlp", 64, num_tokens=4)
        {'num_tokens': 4, 'token_dim': 16, 'hidden_dims': (64, 64, 64)}
    """
    if not 0 < width < math.inf:
        raise UnimixerError(f"width={width:g} must be a number greater than 0")
    sizes = backbone_class(name).dimensions(width, num_tokens=num_tokens, token_dim=token_dim, **options)
    return {"num_tokens": num_tokens, **sizes, **options}


def read_count(value: object) -> object:
    """Read a number that may be written 800K or 1.5M; anything else stays as it is.

    Example:
        >>> read_count("800K"), read_count(7)
        (800000, 7)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMbB])", value) if isinstance(value, str) else None
    return round(float(match[1]) * UNITS[match[2].upper()]) if match else value


def fit_budget(
    name: str, *, params: int, num_tokens: int, token_dim: int | None = None, tolerance: float = 0.02, **options: Any
) -> Backbone:
    """Build the backbone whose number of parameters is nearest to a budget.

    Args:
        name: as in the registry.
        params: dense parameters of the backbone alone.
        num_tokens: T.
        token_dim: D, where the tokenizer fixes it.
        tolerance: largest relative miss.
        options: further options of the backbone.

    Example:
        >>> model = fit_budget("rankmixer", params=1_000_000, num_tokens=16)
        >>> abs(count_parameters(model) / 1_000_000 - 1) < 0.02
        True
    """
    check_options(name, options)
    check_positive(num_tokens=num_tokens, params=params)

    def arguments(width: float, **changes: int) -> dict[str, Any]:
        shape: dict[str, Any] = {"num_tokens": num_tokens, "token_dim": token_dim, **changes}
        return width_arguments(name, width, **shape, **options)

    def count(width: float, **changes: int) -> int:
        with torch.device("meta"):
            return count_parameters(build_backbone(name, **arguments(width, **changes)))

    changeable = {"num_tokens": num_tokens} | ({} if token_dim is None else {"token_dim": token_dim})
    try:
        width = meet_budget(once_a_size(count, arguments), {}, params, tolerance=tolerance, changeable=changeable)
    except UnimixerError as error:
        raise UnimixerError(f"backbone {name!r} with num_tokens={num_tokens}: {error}") from None
    return build_backbone(name, **arguments(width))
