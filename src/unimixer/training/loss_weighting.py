"""Weights of the tasks' losses that are learned with the model: by uncertainty, or by GradNorm."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from unimixer.settings import Settings
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup

VALUE, FIRST_LOSSES = "value", "first_losses"
"""Names in the state: the learned numbers, and the losses of the first step."""
SMALLEST_SHARE = 1e-3
"""A weight of GradNorm is at least this share of their mean, so that no task is given up or turned around."""


class LossWeightingConfig(Settings):
    """The weights of the tasks' losses over the run; learned ones start at the weights of ``tasks``."""

    kind: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """fixed: those of ``tasks``. uncertainty: by a learned variance a task. gradnorm: gradients of one size."""
    alpha: NonNegativeFloat = 1.5
    """How much larger the gradient of a task shall be that learns slowly, for ``gradnorm``; 0 makes all equal."""
    lr: PositiveFloat = 0.025
    """Rate of learned weights, which Adam moves; it has the schedule of the other rates."""

    @model_validator(mode="after")
    def _has_effect(self) -> LossWeightingConfig:
        """Refuse a key that its kind does not read."""
        read = {"fixed": (), "uncertainty": ("lr",), "gradnorm": ("lr", "alpha")}[self.kind]
        for name, field in type(self).model_fields.items():
            if name not in ("kind", *read) and getattr(self, name) != field.default:
                takers = "gradnorm" if name == "alpha" else "uncertainty and gradnorm"
                raise ValueError(f"{name} has no effect with kind={self.kind}; it is for {takers}")
        return self


class LossWeighting(torch.optim.Adam):
    r"""Learns one number a task: an optimizer that steps after those of the model.

    ``uncertainty`` learns :math:`s_k = \log \sigma_k^2` (Kendall et al., CVPR 2018, for classification):

    .. math:: \mathcal{L} = \sum_k e^{-s_k} L_k + \tfrac{1}{2} s_k

    ``gradnorm`` learns the weight :math:`w_k` itself (Chen et al., ICML 2018), by the gradient of

    .. math::
        \sum_k \Bigl| G_k - \bar G \, r_k^\alpha \Bigr|, \qquad G_k = w_k \lVert \nabla_h L_k \rVert, \qquad
        r_k = \frac{L_k / L_k(0)}{\text{mean of all tasks}}

    with :math:`\bar G\, r_k^\alpha` held constant, and scales the weights to their sum at the start after every step.
    h is the input of the towers, one vector a row, in place of the last shared weights of the paper, which not every
    backbone has. L(0) are the losses of the first step.

    Losses and squared norms add up over accumulated batches and over processes, so that the weights do not depend on
    how a step is divided.

    Args:
        config: of the recipe, with a kind that learns.
        start: weights of the tasks at the start.
        processes: the processes of the run.
    """

    def __init__(self, config: LossWeightingConfig, start: Tensor, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.config, self.processes, self.total = config, processes, float(start.sum())
        self.learned = nn.Parameter(-start.log() if config.kind == "uncertainty" else start.clone())
        self.first_losses: Tensor | None = None
        self._losses, self._squares = torch.zeros_like(start), torch.zeros_like(start)
        super().__init__([self.learned], lr=config.lr)
        self.param_groups[0]["base_lr"] = config.lr

    @classmethod
    def of(
        cls, config: LossWeightingConfig, start: Tensor, processes: ProcessGroup = SINGLE_PROCESS
    ) -> LossWeighting | None:
        """Make the weighting of a recipe; None if its weights are fixed."""
        return None if config.kind == "fixed" else cls(config, start, processes)

    @property
    def needs_gradients(self) -> bool:
        """Whether a step needs the norms of the tasks' gradients."""
        return self.config.kind == "gradnorm"

    @property
    def weights(self) -> Tensor:
        """The present weights of the losses, ``(tasks,)``."""
        value = self.learned.detach()
        return (-value).exp() if self.config.kind == "uncertainty" else value

    def observe(self, losses: Tensor, squares: Tensor | None = None) -> None:
        """Add the losses of a batch to those of the step.

        Args:
            losses: losses of the tasks without their weights ``(tasks,)``.
            squares: squared norms of their gradients ``(tasks,)``, for ``gradnorm``.
        """
        self._losses = self._losses + losses.detach()
        if squares is not None:
            self._squares = self._squares + squares.detach()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the weights by the losses and gradients of all processes."""
        losses, squares = self.processes.total(torch.stack([self._losses, self._squares]))
        if self.first_losses is None:
            self.first_losses = losses.clone()
        if self.needs_gradients:
            self.learned.grad = self._norm_gradient(losses, squares.sqrt())
        else:
            self.learned.grad = 0.5 - self.weights * losses
        super().step()
        if self.needs_gradients:
            smallest = SMALLEST_SHARE * self.total / len(losses)
            self.learned.clamp_(min=smallest)
            self.learned.mul_(self.total / self.learned.sum())
        self.state[self.learned].update({VALUE: self.learned.detach().clone(), FIRST_LOSSES: self.first_losses})
        self._losses, self._squares = torch.zeros_like(losses), torch.zeros_like(losses)

    def _norm_gradient(self, losses: Tensor, norms: Tensor) -> Tensor:
        """Return the gradient of GradNorm's objective by the weights; its targets are constants."""
        assert self.first_losses is not None
        sizes, ratios = self.learned.detach() * norms, losses / self.first_losses.clamp(min=1e-12)
        rates = (ratios / ratios.mean().clamp(min=1e-12)) ** self.config.alpha
        return torch.sign(sizes - sizes.mean() * rates) * norms

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the weights and the moments of Adam."""
        super().load_state_dict(state_dict)
        state = self.state[self.learned]
        if VALUE in state:
            with torch.no_grad():
                self.learned.copy_(state[VALUE])
            self.first_losses = state[FIRST_LOSSES]
