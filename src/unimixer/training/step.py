"""One optimizer step: scores, loss, gradients and update, over as many batches as the recipe accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unimixer.blocks import after_step, forget_counts, pop_penalties
from unimixer.blocks.recompute import compiled
from unimixer.features.batch import Batch
from unimixer.mixing import cached_constraints, set_temperature
from unimixer.ranker import Ranker
from unimixer.training.config import Recipe
from unimixer.training.distributed.dense import DenseParts
from unimixer.training.eviction import Eviction
from unimixer.training.model import checkpoint_activations
from unimixer.training.nonfinite import diverged, first_nonfinite_module
from unimixer.training.optimizers import build_optimizers
from unimixer.training.process_group import ALONE, World
from unimixer.training.schedule import rate, temperature


class Outcome(NamedTuple):
    """What a step saw, before it learned from it."""

    loss: Tensor
    """Of the tasks alone, without penalties and auxiliary losses, so that curves of different models compare. Of
    several processes each has its part, and their sum is the loss of the step."""
    logits: Tensor
    labels: Tensor
    rows: int
    """Of all processes; ``logits`` and ``labels`` are those of this one."""


class TrainStep:
    """Takes optimizer steps of a model.

    Args:
        model: on its device, in training mode.
        recipe: resolved.
        columns: columns of the recipe's tasks among the labels of a batch.
        total_steps: of the whole run; the schedules end there.
        checkpoints: folder with checkpoints, for the message of a run that diverged.
        world: the processes that take the steps together.
    """

    def __init__(
        self,
        model: Ranker,
        recipe: Recipe,
        columns: Tensor,
        *,
        total_steps: int,
        checkpoints: Path,
        world: World = ALONE,
    ) -> None:
        self.model, self.recipe, self.columns, self.world = model, recipe, columns, world
        self.total_steps, self.checkpoints = total_steps, checkpoints
        self.device = next(model.parameters()).device
        self.optimizers = build_optimizers(model, recipe.optimizer)
        self.eviction = Eviction.of(model, recipe, self.optimizers["sparse"], world)
        if self.eviction is not None:
            self.optimizers["eviction"] = self.eviction
        self.task_weights = torch.tensor(list(recipe.tasks.values()), device=self.device)
        checkpoint_activations(model, recipe)
        self.score = compiled(model.score) if recipe.training.compile else model.score
        self.dense = DenseParts(model, self.score, world)

    def __call__(self, group: Sequence[Batch], step: int) -> Outcome:
        """Take step number ``step``, counted from 0, on batches whose rows all weigh as if they were one batch."""
        config = self.recipe
        factor = rate(config.optimizer, step, self.total_steps)
        for optimizer in self.optimizers.values():
            for entry in optimizer.param_groups:
                entry["lr"] = entry["base_lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        set_temperature(self.model, temperature(config.temperature, step, self.total_steps))
        weight, rows = self.world.sums([sum(map(weight_of, group)), sum(map(len, group))])
        total_weight, total_rows = max(weight, 1e-12), int(rows)
        if self.world.distributed:  # what a step draws depends on no step before it, nor on a restart
            torch.manual_seed(hash((config.training.seed, step, self.world.rank)) % 2**63)
        shares = [len(batch) / total_rows for batch in group]
        batches = [self._prepared(batch) for batch in group]
        if self.eviction is not None:
            self.eviction.meet(group, step)
        outcomes = []
        with self.model.embedding.tables.once(batches, step), cached_constraints(self.model):
            for batch, share in zip(batches, shares, strict=True):
                with self.dense.exchange(batch is batches[-1]):
                    outcomes.append(self._gradients(batch, total_weight, share, step))
        self.dense.finish()
        if config.optimizer.clip_norm is not None:
            self.dense.clip(config.optimizer.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        after_step(self.model, self.world.total if self.world.size > 1 else None)
        if len(outcomes) == 1:
            return Outcome(*outcomes[0], total_rows)
        losses, logits, labels = zip(*outcomes, strict=True)
        return Outcome(torch.stack(losses).sum(), torch.cat(logits), torch.cat(labels), total_rows)

    def _prepared(self, batch: Batch) -> Batch:
        """A batch whose ids were checked, on the device; one without rows becomes a row that weighs nothing."""
        if self.device.type == "cpu":
            self.model.embedding.check(batch)
        return batch.padded().to(self.device)

    def _gradients(self, batch: Batch, total_weight: float, share: float, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradients of a batch; its loss, its logits and its labels."""
        assert batch.labels is not None
        labels = batch.labels[:, self.columns]
        bfloat16 = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = self.dense(batch).float()
        loss = task_loss(logits, labels, self.task_weights, batch.weights, total_weight)
        if not share:
            forget_counts(self.model)
        total = loss + self._extra_loss(batch, labels, total_weight, share)
        self._check_finite(total, batch, step)
        total.backward()  # type: ignore[no-untyped-call]
        rows = slice(None) if share else slice(0)
        return loss.detach(), logits.detach()[rows], labels[rows]

    def _extra_loss(self, batch: Batch, labels: Tensor, total_weight: float, share: float) -> Tensor | float:
        """What modules add to the loss of a batch: that of intermediate tokens, and penalties by its share of rows."""
        penalty = pop_penalties(self.model)
        extra: Tensor | float = 0.0 if penalty is None else share * penalty
        for logits in self.model.pop_auxiliary_logits():
            loss = task_loss(logits.float(), labels, self.task_weights, batch.weights, total_weight)
            extra = extra + self.recipe.training.auxiliary_weight * loss
        return extra

    def _check_finite(self, loss: Tensor, batch: Batch, step: int) -> None:
        """Stop at a loss that is not finite; a GPU is asked only where a step is logged, to keep steps in flight."""
        number = step + 1
        if self.device.type != "cpu" and number % self.recipe.training.log_every and number != self.total_steps:
            return
        if not self.dense.all_of(bool(loss.detach().isfinite())):
            where = self.dense.first_of(first_nonfinite_module(self.model, batch))
            detail = f"the first module with an output that is not finite is {where!r}"
            if where is None:
                detail = "every module's output is finite, so look at the sample weights and task weights"
            raise diverged(number, f"the loss is not finite; {detail}", self.checkpoints)


def task_loss(
    logits: Tensor, labels: Tensor, task_weights: Tensor, weights: Tensor | None, total_weight: float
) -> Tensor:
    r"""Binary cross-entropy, summed over tasks by their weights, averaged over rows by theirs.

    .. math::
        \mathcal{L} = \frac{1}{\Omega} \sum_b \omega_b \sum_k \lambda_k \,
            \bigl(\log(1 + e^{z_{bk}}) - y_{bk} z_{bk}\bigr)

    with :math:`\Omega` the weight of all rows of the step, so that accumulated batches add up to the loss of one.

    Shape:
        - logits, labels: ``(B, tasks)``; task_weights: ``(tasks,)``; weights: ``(B,)``, or None where all are 1
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") @ task_weights
    return (losses if weights is None else losses * weights).sum() / total_weight


def weight_of(batch: Batch) -> float:
    """Total weight of a batch: its rows, where they have no weights."""
    return float(len(batch)) if batch.weights is None else float(batch.weights.sum())
