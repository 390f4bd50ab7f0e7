"""What mixtures of experts share: experts that belong to one token, combined by gates, and the router."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer import ops
from unimixer.blocks.per_token import PerTokenLinear
from unimixer.errors import UnimixerError, check_choice, check_positive

EXPERTS = {"gelu": 1, "swiglu": 2}
"""Kinds of expert, and how many units of the first layer make one hidden unit."""


class PerTokenExperts(nn.Module):
    r"""Every token has experts of its own, whose outputs are added by the gates.

    .. math:: y_t = \sum_j g_{tj}\, e_{tj}(x_t), \qquad e_{tj}(x) = \phi(x W_1^{tj} + b_1^{tj}) W_2^{tj} + b_2^{tj}

    The experts of a token are slices of one wide layer, and gate j multiplies the hidden units of expert j:
    :math:`\sum_j g_j h_j W_2^j = [g_1 h_1, \dots, g_E h_E] [W_2^1; \dots; W_2^E]`. That is two batched products over
    tokens, at the cost of a dense layer of the same total width, and no tensor of shape ``(B, T, E, D)``. The weights
    are those of experts ``(T, E, in, out)`` laid side by side: ``up`` is ``(T, D, units)``, ``down`` ``(T, units, D)``.
    Each expert starts by its own fan-in, as ``nn.Linear`` does.

    Args:
        num_tokens: T.
        token_dim: D.
        widths: hidden units of each expert, E numbers.
        expert: ``"gelu"`` or ``"swiglu"`` (up and gate are one weight, all of up first).
        bias: whether layers have biases.
        down_scale: multiplies the start of the down matrices (TokenMixer-Large, arXiv:2602.06563, takes 0.01).
        scale_on: whether ``down_scale`` multiplies their ``"std"`` or their variance, ``"var"``: the paper's text reads
            either way.

    Shape:
        - tokens: ``(B, T, D)``; gates: ``(B, T, E)``; output: ``(B, T, D)``

    Example:
        >>> experts = PerTokenExperts(4, 6, [8, 8, 8])
        >>> experts(torch.zeros(2, 4, 6), torch.ones(2, 4, 3)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(
        self,
        num_tokens: int,
        token_dim: int,
        widths: Sequence[int],
        *,
        expert: str = "gelu",
        bias: bool = True,
        down_scale: float = 1.0,
        scale_on: str = "std",
    ) -> None:
        super().__init__()
        check_choice("expert", expert, tuple(EXPERTS))
        check_choice("scale_on", scale_on, ("std", "var"))
        check_positive(num_tokens=num_tokens, token_dim=token_dim, down_scale=down_scale)
        self.expert, self.widths = expert, tuple(widths)
        self.up = PerTokenLinear(num_tokens, token_dim, EXPERTS[expert] * sum(widths), bias=bias)
        factor = down_scale if scale_on == "std" else down_scale**0.5
        bounds = torch.tensor([width**-0.5 for width in widths])
        of_unit = factor * bounds.repeat_interleave(torch.tensor(self.widths), output_size=sum(widths))
        self.down = nn.Parameter(torch.empty(num_tokens, sum(widths), token_dim).uniform_(-1, 1) * of_unit[:, None])
        of_bias = torch.empty(num_tokens, len(widths), token_dim).uniform_(-1, 1) * bounds[:, None] if bias else None
        self.down_bias = None if of_bias is None else nn.Parameter(of_bias)

    def forward(self, tokens: Tensor, gates: Tensor) -> Tensor:
        """Compute every expert and add them by the gates."""
        hidden = self.up(tokens)
        if self.expert == "gelu":
            hidden = F.gelu(hidden)
        else:
            up, gate = hidden.chunk(2, dim=-1)
            hidden = ops.swiglu(up, gate)
        output = ops.per_token_linear(self._gated(hidden, gates.to(hidden.dtype)), self.down)
        return output if self.down_bias is None else output + ops.per_token_linear(gates, self.down_bias)

    def _gated(self, hidden: Tensor, gates: Tensor) -> Tensor:
        """Multiply the units of each expert by its gate."""
        runs = [(width, len(list(group))) for width, group in groupby(self.widths)]
        if len(runs) == 1:
            apart: Tensor = hidden.unflatten(-1, (len(self.widths), self.widths[0]))  # type: ignore[no-untyped-call]
            return (apart * gates.unsqueeze(-1)).flatten(-2)
        # gates are spread over the units: cutting the units instead makes compiled code keep a stride of one batch size
        parts = torch.split(gates, [count for _, count in runs], dim=-1)
        spread = [
            part.unsqueeze(-1).expand(*part.shape, width).flatten(-2)
            for part, (width, _) in zip(parts, runs, strict=True)
        ]
        return hidden * torch.cat(spread, -1)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"widths={self.widths}, expert={self.expert!r}"


class PerTokenRouter(nn.Module):
    r"""One number an expert from each token, :math:`h_t(x_t) = x_t W_t + b_t`; float32 whatever the autocast.

    ReMoE (arXiv:2412.14711) and top-k mixtures route by it.

    Args:
        num_tokens: T.
        token_dim: D.
        num_experts: E.
        shared: one weight for all tokens.
        bias: whether there is a bias, which starts at zero.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, E)``

    Example:
        >>> PerTokenRouter(4, 6, 3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    def __init__(
        self, num_tokens: int, token_dim: int, num_experts: int, *, shared: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.shared = shared
        self.linear = PerTokenLinear(1 if shared else num_tokens, token_dim, num_experts, bias=bias)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score every expert of every token."""
        with torch.autocast(tokens.device.type, enabled=False):
            wide = tokens if tokens.dtype == torch.float64 else tokens.float()
            weight = self.linear.weight.to(wide.dtype)
            scores = wide @ weight[0] if self.shared else ops.per_token_linear(wide, weight)
            return scores if self.linear.bias is None else scores + self.linear.bias.to(wide.dtype)


def slices(hidden_dim: int, num_experts: int) -> list[int]:
    """Widths of experts that share ``hidden_dim`` units: equal, or the first ones wider by one.

    Example:
        >>> slices(10, 4)
        [3, 3, 2, 2]
    """
    width, rest = divmod(hidden_dim, num_experts)
    return [width + (expert < rest) for expert in range(num_experts)]


def check_slices(hidden_dim: int, num_experts: int) -> None:
    """Raise unless every expert gets a hidden unit."""
    check_positive(hidden_dim=hidden_dim, num_experts=num_experts)
    if hidden_dim < num_experts:
        raise UnimixerError(
            f"hidden_dim={hidden_dim} must be at least num_experts={num_experts}, because all experts share it; "
            "take fewer experts or a wider layer"
        )


def expert_parameters(num_tokens: int, token_dim: int, widths: Sequence[int], expert: str, *, bias: bool) -> int:
    r"""Parameters of :class:`PerTokenExperts`: :math:`T \sum_j (m D h_j + D h_j)`, m = 1 or 2, and biases."""
    inner = EXPERTS[expert] * sum(widths)
    weights = token_dim * (inner + sum(widths))
    return num_tokens * (weights + (inner + len(widths) * token_dim if bias else 0))
