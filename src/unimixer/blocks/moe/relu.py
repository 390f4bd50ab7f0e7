"""A mixture of experts whose gates are ReLUs: how many experts work depends on the token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.blocks.auxiliary import Auxiliary
from unimixer.blocks.moe.experts import PerTokenExperts, PerTokenRouter, check_slices, expert_parameters, slices
from unimixer.errors import UnimixerError, check_choice, check_positive


@dataclass(frozen=True, kw_only=True)
class ReLUMoEOptions:
    """Options of :class:`ReLUMoE`; their meaning is there."""

    num_experts: int = 8
    active_ratio: float = 0.25
    expert: str = "gelu"
    bias: bool = True
    dtsi: bool = True
    combine: str = "alternate"
    balanced: bool = False
    control: str = "model"
    coefficient: float = 1e-8
    multiplier: float = 1.2
    largest: float = 1.0


class ReLUMoE(Auxiliary):
    r"""Per-token experts with ReLU gates and, in training, a second, dense router.

    .. math:: y_t = \sum_j G_{tj}\, e_{tj}(s_t), \qquad G_{tj} = \mathrm{ReLU}(h_t(s_t))_j

    RankMixer (arXiv:2507.15551), "sparse MoE". Gates become sparse by a penalty, in training

    .. math:: \lambda L_{reg}, \qquad L_{reg} = \frac{1}{BT} \sum_{b,t,j} G_{btj}

    (the paper sums; :math:`\lambda` adapts to either). The paper does not say how :math:`\lambda` follows the budget;
    this is the rule of ReMoE (arXiv:2412.14711), which it cites: after every step, :math:`\lambda` grows by the
    multiplier where the share of zero gates is below ``1 - active_ratio``, and shrinks by it elsewhere. It stays
    between its start and ``largest``, a bound of our own: gates answer some dozen steps late, and by then an unbounded
    :math:`\lambda` has closed far more of them than it should, for good in a short run.

    "Dense training, sparse inference" (``dtsi``): a router :math:`h_{train}` without penalty keeps all experts trained,
    a router :math:`h_{infer}` has the penalty and alone decides at inference. The paper does not say how they meet in
    training. Here both mixtures run in every training forward, both routers get the gradient of the task, and experts
    are computed once:

    - ``combine="alternate"``: rows of even number in the batch go by :math:`h_{train}`, the others, on which the
      penalty is taken, by :math:`h_{infer}`. Through all layers alike, so those rows see the model of inference as it
      is; the loss is the mean of both models' losses. In a batch of one row both mixtures are averaged.
    - ``combine="mean"``: the output is the mean of both mixtures, for every row. Nothing then asks :math:`h_{infer}` to
      do without :math:`h_{train}`, and inference may be far worse than training.

    Routers are linear with a bias that starts at zero (the paper is silent; ReMoE has none): without one, a gate of
    inputs that are symmetric around zero is open for half of them, whatever its weight, and could only die.

    Evaluation mode uses :math:`h_{infer}` alone. All experts are computed and then gated, on every device.

    Args:
        num_tokens: T.
        token_dim: D.
        hidden_dim: hidden units of all experts of a token together.
        num_experts: E.
        active_ratio: wanted share of gates that are not zero.
        expert: ``"gelu"`` or ``"swiglu"``.
        bias: whether experts have biases.
        dtsi: train a dense router too.
        combine: ``"alternate"`` or ``"mean"``.
        balanced: weigh the gates of an expert in the penalty by its share of active rows over ``active_ratio``, so that
            experts in demand pay more (ReMoE does so).
        control: ``"model"``: the share of zeros is that of all such layers of the model, as in ReMoE; ``"layer"``: each
            layer meets the target itself.
        coefficient: :math:`\lambda` at the start, and at least.
        multiplier: its change a step.
        largest: :math:`\lambda` at most.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> moe = ReLUMoE(4, 6, 24, num_experts=3)
        >>> moe(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    Options = ReLUMoEOptions
    coefficient: Tensor

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int, **options: Any) -> None:
        super().__init__()
        chosen = ReLUMoEOptions(**options)
        num_experts, active_ratio, multiplier = chosen.num_experts, chosen.active_ratio, chosen.multiplier
        coefficient, largest = chosen.coefficient, chosen.largest
        check_slices(hidden_dim, num_experts)
        check_choice("combine", chosen.combine, ("alternate", "mean"))
        check_choice("control", chosen.control, ("model", "layer"))
        check_positive(active_ratio=active_ratio, coefficient=coefficient)
        if active_ratio >= 1:
            raise UnimixerError(f"active_ratio={active_ratio} must be less than 1; a dense layer is ffn='gelu'")
        if multiplier <= 1:
            raise UnimixerError(f"multiplier={multiplier} must be greater than 1, or the coefficient could not follow")
        self.active_ratio, self.combine, self.balanced = active_ratio, chosen.combine, chosen.balanced
        if largest < coefficient:
            raise UnimixerError(f"largest={largest} must be at least coefficient={coefficient}, where it starts")
        self.control, self.multiplier, self.bounds = chosen.control, multiplier, (coefficient, largest)
        widths = slices(hidden_dim, num_experts)
        self.experts = PerTokenExperts(num_tokens, token_dim, widths, expert=chosen.expert, bias=chosen.bias)
        self.infer_router = PerTokenRouter(num_tokens, token_dim, num_experts, bias=True)
        self.train_router = PerTokenRouter(num_tokens, token_dim, num_experts, bias=True) if chosen.dtsi else None
        self.register_buffer("coefficient", torch.tensor(coefficient, dtype=torch.float32))

    @staticmethod
    def num_parameters(num_tokens: int, token_dim: int, hidden_dim: int, **options: Any) -> int:
        """Parameters of a dense layer, E - 1 more biases of the output, and the routers."""
        chosen = ReLUMoEOptions(**options)
        widths = slices(hidden_dim, chosen.num_experts)
        experts = expert_parameters(num_tokens, token_dim, widths, chosen.expert, bias=chosen.bias)
        return experts + (2 if chosen.dtsi else 1) * num_tokens * (token_dim + 1) * chosen.num_experts

    def forward(self, tokens: Tensor) -> Tensor:
        """Gate and add the experts."""
        gates = F.relu(self.infer_router(tokens))
        both = self.training and self.train_router is not None
        alternate = both and self.combine == "alternate" and gates.shape[0] > 1
        self._record(gates[1::2] if alternate else gates)
        if both and self.train_router is not None:
            dense = F.relu(self.train_router(tokens))
            if alternate:
                even = torch.arange(gates.shape[0], device=gates.device) % 2 == 0
                gates = torch.where(even[:, None, None], dense, gates)
            else:
                gates = (dense + gates) / 2
        output: Tensor = self.experts(tokens, gates)
        return output

    def _record(self, gates: Tensor) -> None:
        self.penalty = self.counts = None
        if not self.records:
            return
        active = (gates.detach() > 0).float()
        self.counts = torch.stack([active.sum(), torch.ones_like(active).sum()])
        weighted = gates * (active.mean(0) / self.active_ratio) if self.balanced else gates
        self.penalty = self.coefficient * weighted.sum(-1).mean()

    def pools_with(self, other: Auxiliary) -> bool:
        """Whether two layers meet one target together."""
        if not isinstance(other, ReLUMoE) or "layer" in (self.control, other.control):
            return self is other
        return self.active_ratio == other.active_ratio

    @torch.no_grad()
    def after_step(self, totals: Tensor | None = None) -> None:
        """Move the coefficient by the share of zero gates that the step measured."""
        if self.totals is None:
            return
        active, gates = self.totals
        self.statistics = {"active_ratio": active / gates.clamp(min=1), "penalty_coefficient": self.coefficient.clone()}
        active, gates = self.totals if totals is None else totals
        factor = torch.where(active / gates > self.active_ratio, self.multiplier, 1 / self.multiplier)
        self.coefficient.mul_(factor).clamp_(*self.bounds)
        self.totals = None

    def _apply(self, fn: Any, recurse: bool = True) -> ReLUMoE:
        """The coefficient moves with the module and stays float32: it spans more than a half type resolves."""
        before = self.coefficient
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.coefficient.dtype != torch.float32:
            self.coefficient = before.to(self.coefficient.device)
        return self

    def extra_repr(self) -> str:
        """Settings, for ``print``."""
        return f"active_ratio={self.active_ratio}, combine={self.combine!r}, control={self.control!r}"
