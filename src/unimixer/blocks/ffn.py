"""Per-token FFNs by name, and the width at which one has the number of parameters of another."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from unimixer.blocks.moe.experts import EXPERTS
from unimixer.blocks.moe.relu import ReLUMoE
from unimixer.blocks.moe.topk import TopKMoE
from unimixer.blocks.per_token import PerTokenFFN, PerTokenSwiGLU
from unimixer.errors import check_choice, unknown

FFN = type[PerTokenFFN] | type[PerTokenSwiGLU] | type[ReLUMoE] | type[TopKMoE]
FFNS: dict[str, FFN] = {"gelu": PerTokenFFN, "swiglu": PerTokenSwiGLU, "relu-moe": ReLUMoE, "topk-moe": TopKMoE}


@dataclass(frozen=True, kw_only=True)
class HiddenOptions:
    """Options of a backbone that set the hidden width of its FFNs."""

    hidden_dim: int | None = None
    """Hidden units (default: ``expansion * token_dim``)."""
    expansion: float = 4.0
    """Ratio of hidden to token width."""

    def hidden(self, token_dim: int) -> int:
        """Hidden units at a token width."""
        return max(1, round(self.expansion * token_dim)) if self.hidden_dim is None else self.hidden_dim


@dataclass(frozen=True, kw_only=True)
class FFNOptions(HiddenOptions):
    """Options of a backbone that name and size its per-token FFNs."""

    ffn: str = "gelu"
    """One of :data:`FFNS`."""
    ffn_options: Mapping[str, Any] | None = None
    """Further options of that class."""


def build_ffn(
    name: str, num_tokens: int, token_dim: int, hidden_dim: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a per-token FFN by name.

    Args:
        name: ``"gelu"``, ``"swiglu"``, ``"relu-moe"`` or ``"topk-moe"``.
        num_tokens: T.
        token_dim: D.
        hidden_dim: hidden units, those of all experts together.
        options: further keyword arguments of the class.

    Example:
        >>> ffn = build_ffn("topk-moe", 4, 6, 24, {"num_experts": 4, "num_active": 3})
        >>> ffn.experts.widths
        (6, 6, 6, 6)
    """
    cls = _class(name, options)
    return cls(num_tokens, token_dim, hidden_dim, **(options or {}))


def ffn_parameters(
    name: str, num_tokens: int, token_dim: int, hidden_dim: int, options: Mapping[str, Any] | None = None
) -> int:
    """Return the parameters of :func:`build_ffn` with these arguments, by formula.

    Example:
        >>> ffn_parameters("gelu", 4, 6, 24)  # 4 * (6 * 24 + 24 + 24 * 6 + 6)
        1272
    """
    return _class(name, options).num_parameters(num_tokens, token_dim, hidden_dim, **(options or {}))


def ffn_matrices(name: str, options: Mapping[str, Any] | None = None) -> int:
    """Return the number of matrices of D times hidden: 2 without and 3 with a gate inside.

    Example:
        >>> ffn_matrices("swiglu"), ffn_matrices("relu-moe", {"expert": "gelu"})
        (3, 2)
    """
    inside = _checked(name, options).get("expert")
    kind = name if inside is None else str((options or {}).get("expert", inside))
    check_choice("expert", kind, tuple(EXPERTS))
    return 1 + EXPERTS[kind]


def matched_hidden(
    name: str, num_tokens: int, token_dim: int, hidden: float, options: Mapping[str, Any] | None = None
) -> int:
    """Return the hidden units at which an FFN has about the parameters of the dense one with ``hidden`` units.

    A mixture is narrower by what its routers and the biases of its experts take; a dense layer is only rounded.

    Example:
        >>> matched_hidden("gelu", 4, 6, 23.7), matched_hidden("relu-moe", 4, 6, 23.7, {"num_experts": 4})
        (24, 16)
    """
    num_experts = _num_experts(name, options)
    if num_experts is None:
        return max(1, round(hidden))
    fixed, wider = (ffn_parameters(name, num_tokens, token_dim, units, options) for units in (0, num_experts))
    wanted = ffn_matrices(name, options) * num_tokens * token_dim * hidden
    return max(num_experts, round((wanted - fixed) * num_experts / (wider - fixed)))


def sensible_ffn(name: str, num_tokens: int, token_dim: int, options: Mapping[str, Any] | None = None) -> int:
    """Parameters below which a width is too large for a mixture: with four hidden units an expert. A dense layer has 0.

    Example:
        >>> sensible_ffn("gelu", 4, 6), sensible_ffn("relu-moe", 4, 6) == ffn_parameters("relu-moe", 4, 6, 32)
        (0, True)
    """
    experts = _num_experts(name, options)
    return 0 if experts is None else ffn_parameters(name, num_tokens, token_dim, 4 * experts, options)


def _num_experts(name: str, options: Mapping[str, Any] | None) -> int | None:
    experts = _checked(name, options).get("num_experts")
    return None if experts is None else int((options or {}).get("num_experts", experts))


def _class(name: str, options: Mapping[str, Any] | None) -> FFN:
    _checked(name, options)
    return FFNS[name]


def _checked(name: str, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Check the name of an FFN and of the options given; return all its options with their defaults."""
    check_choice("ffn", name, tuple(FFNS))
    known = _known(name)
    for option in options or {}:
        if option not in known:
            raise unknown(f"option of ffn {name!r}:", option, known)
    return known


@cache
def _known(name: str) -> Mapping[str, Any]:
    """Return the options of an FFN with their defaults."""
    cls = FFNS[name]
    parameters = inspect.signature(getattr(cls, "Options", cls)).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
