"""Learned weights of losses: the rules of their papers, and the numbers that a step gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_recipe
from torch import Tensor
from torch.nn import functional as F

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.training.loss_weighting import LossWeighting, LossWeightingConfig
from unimixer.training.model import build_ranker, resolve
from unimixer.training.process_group import ProcessGroup
from unimixer.training.step import TrainStep

LOSSES = torch.tensor([[0.7, 0.2, 0.05], [0.6, 0.2, 0.04], [0.65, 0.1, 0.05], [0.5, 0.1, 0.01]])
NORMS = torch.tensor([[1.0, 3.0, 0.2], [0.9, 2.0, 0.2], [1.1, 2.5, 0.1], [1.0, 0.1, 0.3]])
GRADNORM, UNCERTAINTY = "loss_weighting.kind=gradnorm", "loss_weighting.kind=uncertainty"


def learned(kind: str, start: Tensor, processes: ProcessGroup | None = None, **config: Any) -> LossWeighting:
    made = LossWeighting.of(
        LossWeightingConfig.model_validate({"kind": kind, **config}), start, processes or ProcessGroup()
    )
    assert made is not None
    return made


def take(one: LossWeighting, losses: Tensor, norms: Tensor | None = None) -> Tensor:
    one.observe(losses, None if norms is None else norms.square())
    one.step()
    return one.weights


# ---- the rules ------------------------------------------------------------------------------------------------------


def test_uncertainty_descends_the_loss_of_its_paper() -> None:
    start = torch.tensor([1.0, 0.5, 2.0])
    one, log_variances = learned("uncertainty", start, lr=0.1), (-start.log()).requires_grad_()
    assert torch.equal(one.weights, start)
    textbook = torch.optim.Adam([log_variances], lr=0.1)
    for losses in LOSSES:
        textbook.zero_grad()
        (torch.exp(-log_variances) * losses + log_variances / 2).sum().backward()  # type: ignore[no-untyped-call]
        textbook.step()
        torch.testing.assert_close(take(one, losses), torch.exp(-log_variances.detach()))


def test_uncertainty_ends_at_half_the_inverse_of_a_loss() -> None:
    one, losses = learned("uncertainty", torch.ones(2), lr=0.1), torch.tensor([0.5, 0.1])
    for _ in range(150):
        take(one, losses)
    torch.testing.assert_close(one.weights, 1 / (2 * losses), rtol=1e-2, atol=0)


def test_gradnorm_descends_the_objective_of_its_paper() -> None:
    start, alpha = torch.tensor([1.0, 0.5, 1.5]), 0.7
    one, weights = learned("gradnorm", start, lr=0.1, alpha=alpha), start.clone().requires_grad_()
    textbook = torch.optim.Adam([weights], lr=0.1)
    for losses, norms in zip(LOSSES, NORMS, strict=True):
        textbook.zero_grad()
        sizes, ratios = weights * norms, losses / LOSSES[0]
        targets = (sizes.mean() * (ratios / ratios.mean()) ** alpha).detach()
        (sizes - targets).abs().sum().backward()  # type: ignore[no-untyped-call]
        textbook.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
        torch.testing.assert_close(take(one, losses, norms), weights.detach())


def test_gradnorm_of_alpha_0_gives_gradients_one_size() -> None:
    one, norms = learned("gradnorm", torch.ones(2), alpha=0.0, lr=0.02), torch.tensor([1.0, 4.0])
    for _ in range(60):
        take(one, torch.ones(2), norms)
    torch.testing.assert_close(one.weights, torch.tensor([1.6, 0.4]), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_batches_and_processes_add_up(kind: str) -> None:
    class Twin(ProcessGroup):
        """One of two processes that observe the same."""

        def total(self, tensor: Tensor) -> Tensor:
            return 2 * tensor

    whole, parts = learned(kind, torch.ones(3)), learned(kind, torch.ones(3), Twin(size=2))
    for losses, norms in zip(LOSSES, NORMS, strict=True):
        for _ in range(2):  # two batches on each of two processes
            parts.observe(losses / 4, norms.square() / 4)
        parts.step()
        torch.testing.assert_close(take(whole, losses, norms), parts.weights)


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_a_restored_state_goes_on_with_the_same_bits(kind: str) -> None:
    whole, first, second = (learned(kind, torch.ones(3)) for _ in range(3))
    for number in range(4):
        if number == 2:
            second.load_state_dict(first.state_dict())
        for one in (whole, first if number < 2 else second):
            take(one, LOSSES[number], NORMS[number])
    assert torch.equal(whole.weights, second.weights)


# ---- in a step ------------------------------------------------------------------------------------------------------


def step_of(dataset: Dataset, *overrides: str) -> TrainStep:
    torch.manual_seed(0)
    recipe = resolve(tiny_recipe(dataset.folder, *overrides), dataset.transform.spec)
    model = build_ranker(recipe.model, dataset.transform.spec).train()
    return TrainStep(model, recipe, torch.tensor([0, 1]), total_steps=10, checkpoints=Path("nowhere"))


def batches_of(dataset: Dataset, size: int, count: int) -> list[Batch]:
    return [b for b, _ in zip(Loader(dataset, "train", batch_size=size).batches(), range(count), strict=False)]


def observed(step: TrainStep, group: list[Batch]) -> tuple[Tensor, Tensor | None]:
    """The losses and squared norms of a step, summed over its batches."""
    assert step.weighting is not None
    step.weighting.step = lambda closure=None: None  # type: ignore[method-assign]
    step(group, 0)
    return step.weighting._losses, step.weighting._squares


def test_a_step_observes_losses_and_gradients_by_the_input_of_the_towers(toy_dataset: Dataset) -> None:
    overrides = (GRADNORM, "tasks={is_click: 1, long_view: 0.5}", "model.task_head=mmoe")
    step, (batch,) = step_of(toy_dataset, *overrides), batches_of(toy_dataset, 64, 1)
    pooled: list[Tensor] = []
    with torch.enable_grad():
        handle = step.model.towers.register_forward_pre_hook(lambda module, arguments: pooled.append(arguments[0]))
        logits = step.model(batch)
        handle.remove()
    assert batch.labels is not None
    by_task = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none").mean(0)
    norms = [torch.autograd.grad(loss, pooled[0], retain_graph=True)[0].norm() for loss in by_task]
    losses, squares = observed(step, [batch])
    torch.testing.assert_close(losses, by_task.detach())
    torch.testing.assert_close(squares, torch.stack(norms).square(), rtol=1e-4, atol=0)


def test_accumulated_batches_are_observed_as_one(toy_dataset: Dataset) -> None:
    found = [observed(step_of(toy_dataset, GRADNORM), batches_of(toy_dataset, n, 96 // n)) for n in (96, 32)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)


def test_the_model_learns_by_present_weights_and_reports_those_of_the_recipe(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 64, 1)
    plain = step_of(toy_dataset, "tasks={is_click: 1, long_view: 3}")
    weighted = step_of(toy_dataset, UNCERTAINTY)
    assert weighted.weighting is not None
    with torch.no_grad():
        weighted.weighting.learned.copy_(-torch.tensor([1.0, 3.0]).log())
    outcomes = [step([batch], 0) for step in (plain, weighted)]
    for a, b in zip(plain.model.towers.parameters(), weighted.model.towers.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    by_task = F.binary_cross_entropy_with_logits(outcomes[0].logits, outcomes[0].labels, reduction="none").mean(0)
    assert float(outcomes[1].loss) == pytest.approx(float(by_task.sum()), rel=1e-6)
    assert weighted.loss_weights().keys() == {"is_click", "long_view"}
    assert plain.loss_weights() == {}


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["loss_weighting.kind=dwa"],
            "loss_weighting.kind='dwa': input should be 'fixed', 'uncertainty' or 'gradnorm'",
        ),
        (["loss_weighting.alpha=1"], "alpha has no effect with kind=fixed; it is for gradnorm"),
        (["loss_weighting.lr=0.1"], "lr has no effect with kind=fixed; it is for uncertainty and gradnorm"),
        ([UNCERTAINTY, "loss_weighting.alpha=1"], "alpha has no effect with kind=uncertainty"),
        ([GRADNORM, "loss_weighting.alpha=-1"], "loss_weighting.alpha=-1"),
        ([UNCERTAINTY, "tasks={is_click: 1}"], "weighs the losses of several tasks, and 'is_click' is the only one"),
    ],
)
def test_a_weighting_without_effect_is_refused(overrides: list[str], message: str, toy_dataset: Dataset) -> None:
    with pytest.raises(UnimixerError, match=message):
        resolve(tiny_recipe(toy_dataset.folder, *overrides), toy_dataset.transform.spec)
