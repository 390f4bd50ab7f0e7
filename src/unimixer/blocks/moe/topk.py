"""A mixture of experts in which the best k of every token work, one of them always: first enlarge, then sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimixer.blocks.auxiliary import Auxiliary
from unimixer.blocks.moe.experts import PerTokenExperts, PerTokenRouter, check_slices, expert_parameters, slices
from unimixer.errors import UnimixerError, check_choice, check_positive


@dataclass(frozen=True, kw_only=True)
class TopKMoEOptions:
    """Options of :class:`TopKMoE`; their meaning is there."""

    num_experts: int = 8
    num_active: int = 4
    expert: str = "swiglu"
    bias: bool = False
    count_shared: bool = True
    shared_width: str = "slice"
    router: str = "token"
    gate: str = "selected"
    scale: float | None = None
    down_scale: float = 1.0
    scale_on: str = "std"
    balance_weight: float = 0.0

    def widths(self, hidden_dim: int) -> list[int]:
        """Widths of all experts, the shared one first."""
        cut = slices(hidden_dim, self.num_experts)
        shared = cut[0] if self.shared_width == "slice" else hidden_dim
        return [shared, *(cut[1:] if self.count_shared else cut)]


class TopKMoE(Auxiliary):
    r"""The wide per-token layer cut into experts, of which k work for a token: k - 1 by choice, one always.

    .. math:: y_t = \alpha \sum_{j \in \mathrm{Top}(k-1)} g_{tj}\, e_{tj}(x_t) + e_{t0}(x_t), \qquad
              g_t = \mathrm{softmax}(h_t(x_t) \text{ over the selected})

    TokenMixer-Large (arXiv:2602.06563), "first enlarge, then sparse". A dense layer of width ``hidden_dim`` = nD is cut
    into E experts of width nD / E, of which the first is the shared one: parameters are those of the dense layer and
    the router's. Gates add up to one, so :math:`\alpha` = E / k (1 / sparsity) makes up for their size; the layer does
    not become equal to the dense one by it. Sparse in training and at inference alike: an expert that no row selects
    gets no gradient. All experts are computed and then gated, on every device.

    Where the paper can be read in two ways there is an option; biases, which it removes, are off.

    Args:
        num_tokens: T.
        token_dim: D.
        hidden_dim: hidden units nD of the dense layer that is cut.
        num_experts: E.
        num_active: k.
        expert: ``"swiglu"`` or ``"gelu"``.
        bias: whether experts have biases.
        count_shared: whether E and k count the shared expert; else it comes on top of both.
        shared_width: ``"slice"``: the shared expert is as wide as the others; ``"full"``: as the dense layer.
        router: ``"token"``: own weights for every token; ``"shared"``: one weight for all.
        gate: ``"selected"``: softmax over the selected; ``"all"``: over all, of which the selected are kept.
        scale: :math:`\alpha` (default E / k).
        down_scale: multiplies the start of the down matrices (the paper's best is 0.01).
        scale_on: whether it multiplies their ``"std"`` or their variance, ``"var"``.
        balance_weight: coefficient of the load-balancing loss of Switch (arXiv:2101.03961), a mean over tokens of
            :math:`R \sum_j f_j P_j`, with f the share of selections and P the mean softmax of R experts; 0 is none.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> moe = TopKMoE(4, 6, 24, num_experts=4, num_active=3)
        >>> moe(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    Options = TopKMoEOptions

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int, **options: Any) -> None:
        super().__init__()
        chosen = TopKMoEOptions(**options)
        num_experts, num_active = chosen.num_experts, chosen.num_active
        check_slices(hidden_dim, num_experts)
        check_positive(num_active=num_active)
        check_choice("shared_width", chosen.shared_width, ("slice", "full"))
        check_choice("router", chosen.router, ("token", "shared"))
        check_choice("gate", chosen.gate, ("selected", "all"))
        if chosen.balance_weight < 0:
            raise UnimixerError(f"balance_weight={chosen.balance_weight} must be at least 0")
        self.num_selected = num_active - chosen.count_shared
        _check_active(num_experts, num_active, self.num_selected, chosen.gate)
        self.gate, self.balance_weight = chosen.gate, chosen.balance_weight
        self.scale = num_experts / num_active if chosen.scale is None else float(chosen.scale)
        widths = chosen.widths(hidden_dim)
        self.experts = PerTokenExperts(
            *(num_tokens, token_dim, widths),
            expert=chosen.expert,
            bias=chosen.bias,
            down_scale=chosen.down_scale,
            scale_on=chosen.scale_on,
        )
        self.router = PerTokenRouter(num_tokens, token_dim, len(widths) - 1, shared=chosen.router == "shared")

    @staticmethod
    def num_parameters(num_tokens: int, token_dim: int, hidden_dim: int, **options: Any) -> int:
        """Parameters of all experts, the shared one among them, and of the router."""
        chosen = TopKMoEOptions(**options)
        widths = chosen.widths(hidden_dim)
        routers = (1 if chosen.router == "shared" else num_tokens) * token_dim * (len(widths) - 1)
        return expert_parameters(num_tokens, token_dim, widths, chosen.expert, bias=chosen.bias) + routers

    def gates(self, logits: Tensor) -> Tensor:
        """Gates of the routed experts, ``(B, T, R)`` from ``(B, T, R)``: zero but for the selected."""
        selected = logits.detach().topk(self.num_selected, dim=-1).indices
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, selected, True)
        self._record(logits, chosen)
        if self.gate == "all":
            return logits.softmax(-1) * chosen
        return logits.masked_fill(~chosen, float("-inf")).softmax(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Route, gate and add the experts."""
        routed = self.scale * self.gates(self.router(tokens))
        always = torch.ones_like(routed[..., :1])
        output: Tensor = self.experts(tokens, torch.cat([always, routed], -1))
        return output

    def _record(self, logits: Tensor, chosen: Tensor) -> None:
        self.penalty = None
        if self.balance_weight and self.records:
            share = chosen.to(logits.dtype).mean(0) / self.num_selected
            balance = (share * logits.softmax(-1).mean(0)).sum(-1).mean()
            self.penalty = self.balance_weight * logits.shape[-1] * balance

    def extra_repr(self) -> str:
        """Settings, for ``print``."""
        return f"num_selected={self.num_selected}, gate={self.gate!r}, scale={self.scale}"


def _check_active(num_experts: int, num_active: int, num_selected: int, gate: str) -> None:
    if num_active > num_experts:
        raise UnimixerError(f"num_active={num_active} must be at most num_experts={num_experts}")
    if num_selected < 1:
        raise UnimixerError(f"num_active={num_active} leaves no expert to choose beside the shared one; take 2 or more")
    if num_selected == 1 and gate == "selected":
        raise UnimixerError(
            f"num_active={num_active} leaves one expert to choose, and the softmax over one is always 1, so the router "
            f"would not learn; take num_active={num_active + 1} or gate='all'"
        )
