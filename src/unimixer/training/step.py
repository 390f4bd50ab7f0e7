"""One optimizer step: scores, loss, gradients and update, over as many batches as the recipe accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.blocks import Auxiliary, after_step, forget_counts, pop_penalties
from unimixer.blocks.recompute import compiled
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.mixing import Constrained, cached_constraints, set_temperature
from unimixer.ranker import Ranker
from unimixer.training.averaging import Averaging
from unimixer.training.config import Recipe
from unimixer.training.eviction import Eviction
from unimixer.training.loss_weighting import LossWeighting
from unimixer.training.model import set_activation_checkpointing
from unimixer.training.optimizers import build_optimizers
from unimixer.training.sampling import NegativeSampling
from unimixer.training.schedule import rate, temperature
from unimixer.training.sharded_tensors import local_part
from unimixer.training.strategy import UNSHARDED, Strategy
from unimixer.training.tensor_files import latest_checkpoint


class Outcome(NamedTuple):
    """The loss and the scores of a step, from before its update."""

    loss: Tensor
    """The loss of the tasks by the weights of the recipe, without penalties and auxiliary losses, so that curves of
    different models compare. Each process has its part; the sum over processes is the loss of the step."""
    logits: Tensor
    labels: Tensor
    """The tasks' own labels; soft labels join them in the loss only."""
    rows: int
    """Rows of all processes; ``logits`` and ``labels`` are those of this process."""


class TrainStep:
    """Takes optimizer steps of a model.

    Args:
        model: on its device, in training mode.
        recipe: resolved.
        columns: columns of the recipe's tasks among the labels of a batch.
        soft_columns: the column of the soft label of every task; that of a task without one is any.
        total_steps: of the whole run; the schedules end there.
        checkpoints: folder with checkpoints, for the message of a run that diverged.
        strategy: how several processes share the model.
        sampling: how the negatives of the data were sampled.
    """

    def __init__(
        self,
        model: Ranker,
        recipe: Recipe,
        columns: Tensor,
        *,
        soft_columns: Tensor | None = None,
        total_steps: int,
        checkpoints: Path,
        strategy: Strategy = UNSHARDED,
        sampling: NegativeSampling | None = None,
    ) -> None:
        self.sampling = sampling
        self.shifts = None if sampling is None else sampling.shifts(columns).to(next(model.parameters()).device)
        self.model, self.recipe, self.columns, self.processes = model, recipe, columns, strategy.processes
        self.total_steps, self.checkpoints = total_steps, checkpoints
        self.earlier_steps = 0
        self.device = next(model.parameters()).device
        # what changes from step to step besides weights, so that a step does not walk through the whole model for it
        self.adapting = nn.ModuleList(part for part in model.modules() if isinstance(part, Auxiliary | Constrained))
        self.optimizers = build_optimizers(model, recipe.optimizer)
        self.eviction = Eviction.of(model, recipe, self.optimizers["sparse"], self.processes)
        if self.eviction is not None:
            self.optimizers["eviction"] = self.eviction
        self.averaging = Averaging.of(model, recipe.averaging, total_steps)
        if self.averaging is not None:
            self.optimizers["averaging"] = self.averaging  # the last one, behind those that move weights
        assert soft_columns is not None or not recipe.soft_labels
        self.soft_columns = soft_columns if recipe.soft_labels else None
        weights = [recipe.soft_labels[task].weight if task in recipe.soft_labels else 0.0 for task in recipe.tasks]
        self.soft_weights = torch.tensor(weights, device=self.device)
        self.task_weights = torch.tensor(list(recipe.tasks.values()), device=self.device)
        self.weighting = LossWeighting.of(recipe.loss_weighting, self.task_weights, self.processes)
        if self.weighting is not None:
            self.optimizers["loss_weighting"] = self.weighting
            model.keeps_pooled = self.weighting.needs_gradients
        set_activation_checkpointing(model, recipe)
        self.score = compiled(model.score) if recipe.training.compile else model.score
        self.dense = strategy.forward(model, self.score)

    def __call__(self, batches: Sequence[Batch], step: int) -> Outcome:
        """Take step number ``step``, counted from 0; the rows of all batches weigh as if they were one batch."""
        config = self.recipe
        factor = rate(config.optimizer, step, self.total_steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        set_temperature(self.adapting, temperature(config.temperature, step, self.total_steps))
        weight, rows = self.processes.sums([sum(map(weight_of, batches)), sum(map(len, batches))])
        total_weight, total_rows = max(weight, 1e-12), int(rows)
        if self.processes.distributed:  # a step draws the same numbers whatever came before it, also after a restart
            torch.manual_seed(hash((config.training.seed, step, self.processes.rank)) % 2**63)
        shares = [len(batch) / total_rows for batch in batches]
        prepared = [self._prepare(batch) for batch in batches]
        if self.eviction is not None:
            self.eviction.observe(batches, step)
        if self.averaging is not None:
            self.averaging.observe(step)
        outcomes = []
        with self.model.embedding.tables.once(prepared, self.earlier_steps + step), cached_constraints(self.adapting):
            for batch, share in zip(prepared, shares, strict=True):
                with self.dense.exchange(batch is prepared[-1]):
                    outcomes.append(self._gradients(batch, total_weight, share, step))
        self.dense.finish()
        if config.optimizer.clip_norm is not None:
            self.dense.clip(config.optimizer.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        after_step(self.adapting, self.processes.total if self.processes.size > 1 else None)
        if len(outcomes) == 1:
            return Outcome(*outcomes[0], total_rows)
        losses, logits, labels = zip(*outcomes, strict=True)
        return Outcome(torch.stack(losses).sum(), torch.cat(logits), torch.cat(labels), total_rows)

    def loss_weights(self) -> dict[str, float]:
        """Return the present weights of the tasks' losses, if they are learned."""
        return (
            {} if self.weighting is None else dict(zip(self.recipe.tasks, self.weighting.weights.tolist(), strict=True))
        )

    def averaged(self) -> AbstractContextManager[None]:
        """Return the context in which the model has the mean of its weights, if the recipe keeps one."""
        return nullcontext() if self.averaging is None else self.averaging.applied()

    def _prepare(self, batch: Batch) -> Batch:
        """Check and search a batch and move it to the device; an empty one becomes a row of weight zero."""
        if self.device.type == "cpu":
            self.model.embedding.check(batch)
        return self.model.embedding.search(batch).padded().to(self.device)

    def _gradients(self, batch: Batch, total_weight: float, share: float, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradients of a batch; return its loss, its logits and its labels."""
        assert batch.labels is not None
        labels = batch.labels[:, self.columns]
        bfloat16 = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = self.dense(batch).float()
        targets = labels if self.soft_columns is None else self._targets(labels, batch.labels[:, self.soft_columns])
        weights = self._weights(batch)
        loss = self._task_loss(logits, targets, weights, total_weight)
        if not share:
            forget_counts(self.adapting)
        total = loss + self._extra_loss(weights, targets, total_weight, share)
        self._check_finite(total, batch, step)
        if self.weighting is not None:
            losses = task_losses(self._in_sample(logits.detach()), targets, weights, total_weight)
            squares = self._squared_norms(targets, weights, total_weight) if self.weighting.needs_gradients else None
            self.weighting.observe(losses, squares)
            loss = losses @ self.task_weights
        total.backward()  # type: ignore[no-untyped-call]
        rows = slice(None) if share else slice(0)
        return loss.detach(), logits.detach()[rows], labels[rows]

    def _task_loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, total_weight: float) -> Tensor:
        """Compute the loss of the tasks by their present weights."""
        present = self.task_weights if self.weighting is None else self.weighting.weights
        return task_loss(self._in_sample(logits), targets, present, weights, total_weight)

    def _squared_norms(self, targets: Tensor, weights: Tensor | None, total_weight: float) -> Tensor:
        """Compute the squared norm of every task's gradient by the input of the towers, which score it again."""
        assert self.model.pooled is not None
        pooled, self.model.pooled = self.model.pooled.requires_grad_(), None
        bfloat16 = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = self.model.score_pooled(pooled).float()
        losses = task_losses(self._in_sample(logits), targets, weights, total_weight)
        gradients = [torch.autograd.grad(loss, pooled, retain_graph=True)[0] for loss in losses]
        return torch.stack([gradient.float().square().sum() for gradient in gradients])

    def _targets(self, labels: Tensor, soft: Tensor) -> Tensor:
        """Mix soft labels into the labels; a task without a soft label has weight 0 and keeps its own."""
        if self.sampling is not None:
            soft = self.sampling.in_sample(soft, self.columns)
        return (1 - self.soft_weights) * labels + self.soft_weights * soft

    def _in_sample(self, logits: Tensor) -> Tensor:
        """Turn logits of all rows into those of the sample of negatives."""
        return logits if self.shifts is None else logits - self.shifts

    def _weights(self, batch: Batch) -> Tensor | None:
        """Return the weights of the rows, ``(B,)``, or of rows and tasks, ``(B, tasks)``."""
        assert batch.labels is not None
        by_task = None if self.sampling is None else self.sampling.task_weights(batch.labels, self.columns)
        if by_task is None or batch.weights is None:
            return batch.weights if by_task is None else by_task
        return by_task * batch.weights.unsqueeze(1)

    def _extra_loss(self, weights: Tensor | None, targets: Tensor, total_weight: float, share: float) -> Tensor | float:
        """Compute the auxiliary losses of intermediate tokens, and the penalties by the batch's share of rows."""
        penalty = pop_penalties(self.adapting)
        extra: Tensor | float = 0.0 if penalty is None else share * penalty
        for logits in self.model.pop_auxiliary_logits():
            loss = self._task_loss(logits.float(), targets, weights, total_weight)
            extra = extra + self.recipe.training.aux_loss_weight * loss
        return extra

    def _check_finite(self, loss: Tensor, batch: Batch, step: int) -> None:
        """Raise at a loss that is not finite; on a GPU only where a step is logged, to keep steps in flight."""
        number = step + 1
        if self.device.type != "cpu" and number % self.recipe.training.log_every and number != self.total_steps:
            return
        if not self.dense.all_finite(bool(loss.detach().isfinite())):
            name = self.dense.first_name(first_nonfinite_module(self.model, batch))
            detail = f"the first module with an output that is not finite is {name!r}"
            if name is None:
                detail = "every module's output is finite, so look at the sample weights and task weights"
            raise diverged(number, f"the loss is not finite; {detail}", self.checkpoints)


def task_loss(
    logits: Tensor, labels: Tensor, task_weights: Tensor, weights: Tensor | None, total_weight: float
) -> Tensor:
    r"""Compute the binary cross-entropy, summed over tasks by their weights, averaged over rows by theirs.

    Labels are 0 or 1, or probabilities.

    .. math::
        \mathcal{L} = \frac{1}{\Omega} \sum_b \omega_b \sum_k \lambda_k \,
            \bigl(\log(1 + e^{z_{bk}}) - y_{bk} z_{bk}\bigr)

    with :math:`\Omega` the weight of all rows of the step, so that accumulated batches add up to the loss of one.

    Shape:
        - logits, labels: ``(B, tasks)``; task_weights: ``(tasks,)``; weights: ``(B,)`` or ``(B, tasks)``, or None where
          all are 1
    """
    by_task = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if weights is not None and weights.dim() == 2:
        by_task, weights = by_task * weights, None
    losses = by_task @ task_weights
    return (losses if weights is None else losses * weights).sum() / total_weight


def task_losses(logits: Tensor, labels: Tensor, weights: Tensor | None, total_weight: float) -> Tensor:
    """Compute the loss of every task by itself, ``(tasks,)``, with the arguments of :func:`task_loss`."""
    by_task = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if weights is not None:
        by_task = by_task * (weights if weights.dim() == 2 else weights.unsqueeze(1))
    return by_task.sum(0) / total_weight


def weight_of(batch: Batch) -> float:
    """Sum the weights of a batch; a row without a weight counts 1."""
    return float(len(batch)) if batch.weights is None else float(batch.weights.sum())


# ---- numbers that are not finite ----


def diverged(step: int, reason: str, checkpoints: Path) -> UnimixerError:
    """Make the error that ends a run at a step; it names the last good checkpoint."""
    checkpoint = latest_checkpoint(checkpoints)
    left = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
    return UnimixerError(f"step {step}: {reason}; {left}; lower the learning rates or set optimizer.clip_norm")


def first_nonfinite_module(model: nn.Module, batch: Batch) -> str | None:
    """Find the first module, in the order of computation, whose output is not finite."""
    names: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not names and not bool(output.isfinite().all()):
                names.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return names[0] if names else None


def first_nonfinite_parameter(model: nn.Module) -> str | None:
    """Find the first parameter that is not finite in the part that this process holds."""
    return next((n for n, p in model.named_parameters() if not bool(local_part(p.detach()).isfinite().all())), None)
