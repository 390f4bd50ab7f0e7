"""How the processes of a run share its model; the base class trains it in a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from unimixer.features.batch import Batch
from unimixer.ranker import Ranker, dense_parameters
from unimixer.training.checkpoint import Checkpointer
from unimixer.training.config import Recipe
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup
from unimixer.training.run import RunFolder
from unimixer.training.warm_start import WarmStart


class DenseForward:
    """Calls a ranker in training and completes the gradients of its dense parameters.

    Args:
        ranker: the model.
        score: the dense part of the model as a function of embedded features, perhaps compiled.
    """

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor]) -> None:
        self.ranker, self._score = ranker, score

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the logits ``(B, tasks)``."""
        return self._score(*self.ranker.embed(batch))

    @contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """Let forward and backward of a batch end in an exchange of all gradients so far, or in none."""
        yield

    def finish(self) -> None:
        """Sum, after the last backward of a step, the gradients that no exchange has summed."""

    def clip(self, largest: float) -> None:
        """Scale the gradients down to a norm over all dense parameters."""
        torch.nn.utils.clip_grad_norm_(dense_parameters(self.ranker), largest)

    def all_finite(self, finite: bool) -> bool:
        """Tell whether the loss is finite on every process that a forward pass needs."""
        return finite

    def first_name(self, name: str | None) -> str | None:
        """Return the first name that a process needed for a forward pass has found."""
        return name


class Strategy:
    """Trains a model in a single process; subclasses share it among several."""

    processes: ProcessGroup = SINGLE_PROCESS
    table_device: str | None = None
    """Where the embedding tables are made; on ``meta`` where the strategy replaces them."""

    def place(self, model: Ranker, recipe: Recipe, start: WarmStart | None, device: torch.device) -> None:
        """Move a model to its device, with the weights of a warm start if there is one."""
        if start is not None:
            model.load_state_dict(start.state(model))
        model.to(device)

    def forward(self, model: Ranker, score: Callable[..., Tensor]) -> DenseForward:
        """Make the callable that computes logits and completes gradients."""
        return DenseForward(model, score)

    def checkpointer(
        self, run: RunFolder, model: Ranker, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> Checkpointer:
        """Make the object that writes and reads checkpoints and best weights."""
        return Checkpointer(run, model, optimizers)


UNSHARDED = Strategy()
"""The strategy of a single process."""
