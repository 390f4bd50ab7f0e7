"""The mean of the dense weights over the steps of a run: exponential (EMA) or plain over the last steps (SWA)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.ranker import TABLES, Ranker, dense_parameters
from unimixer.training.averaging_config import AveragingConfig
from unimixer.training.sharded_tensors import local_part, reshard
from unimixer.training.tensor_files import select_tensors

MEAN = "mean"
"""Name of the mean in the state of a parameter."""


class Averaging(torch.optim.Optimizer):
    r"""Keeps the mean of every dense parameter: an optimizer that steps after the others and moves no weight.

    .. math:: \bar w_t = d_t\, \bar w_{t-1} + (1 - d_t)\, w_t

    ``ema``: :math:`d_t = \min(d, (1 + t) / (10 + t))` with t the number of steps before, so that the mean of a short
    run is not that of its first weights (``tf.train.ExponentialMovingAverage``). ``swa``: :math:`d_t = (n - 1) / n` at
    the n-th step from the start on, the plain mean of these weights (arXiv:1803.05407, with a mean a step).

    Embedding tables have no mean: a step moves few of their rows.

    Args:
        model: with its dense parameters in place.
        config: of the recipe, with a kind.
        total_steps: of the whole run.
    """

    def __init__(self, model: Ranker, config: AveragingConfig, total_steps: int) -> None:
        super().__init__(dense_parameters(model), {"lr": 0.0, "base_lr": 0.0})
        self.model, self.config = model, config
        start = min(math.ceil(config.start * total_steps), total_steps - 1)  # the last step counts at any share
        self.first_step = start if config.kind == "swa" else 0
        self.now = -1

    @classmethod
    def of(cls, model: Ranker, config: AveragingConfig, total_steps: int) -> Averaging | None:
        """Make the averaging of a recipe; None if it has none."""
        return None if config.kind == "none" else cls(model, config, total_steps)

    def observe(self, step: int) -> None:
        """Note the number of the present step, from 0."""
        self.now = step

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take the present weights into the mean."""
        before = self.now - self.first_step
        if before < 0:
            return
        kept = before / (before + 1)
        if self.config.kind == "ema":
            kept = min(self.config.decay, (1 + before) / (10 + before))
        for parameter in self._parameters():
            if not before:
                self.state[parameter][MEAN] = parameter.detach().clone()
            local_part(self.state[parameter][MEAN]).lerp_(local_part(parameter.detach()), 1 - kept)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: the other optimizers clear the gradients."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its mean weights inside, and its own ones afterwards, bit for bit."""
        averaged = [parameter for parameter in self._parameters() if self.state[parameter]]
        own = [local_part(parameter.detach()).clone() for parameter in averaged]
        self._write(averaged, [local_part(self.state[parameter][MEAN]) for parameter in averaged])
        try:
            yield
        finally:
            self._write(averaged, own)

    @torch.no_grad()
    def _write(self, parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor]) -> None:
        reshard(self.model)
        for parameter, tensor in zip(parameters, tensors, strict=True):
            local_part(parameter.detach()).copy_(tensor)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def with_means(weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], model: Ranker) -> dict[str, Tensor]:
    """Replace the weights of a checkpoint by their means, where its optimizer tensors have any.

    Args:
        weights: by their names in the model.
        optimizer: tensors of all optimizers of the checkpoint.
        model: of the same recipe; it may be on ``meta``.
    """
    means = select_tensors(optimizer, "averaging")
    names = [name for name, _ in model.named_parameters() if not name.startswith(TABLES)]
    return {**weights, **{names[int(key.partition(".")[0])]: mean for key, mean in means.items()}}
