"""One step: the loss by hand, and accumulated batches that weigh as one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.mixing import MatrixMixing
from unimixer.ranker import dense_parameters
from unimixer.training.model import build_ranker, resolve
from unimixer.training.step import TrainStep, task_loss, weight_of


def step_of(dataset: Dataset, *overrides: str, total: int = 10) -> TrainStep:
    torch.manual_seed(0)
    recipe = resolve(tiny_recipe(dataset.folder, *overrides), dataset.transform.spec)
    model = build_ranker(recipe.model, dataset.transform.spec).train()
    return TrainStep(model, recipe, torch.tensor([0, 1]), total_steps=total, checkpoints=Path("nowhere"))


def batches_of(dataset: Dataset, size: int, count: int, *, weighted: bool) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(size * count, generator=generator) * 3
    batches = [
        batch for batch, _ in zip(Loader(dataset, "train", batch_size=size).batches(), range(count), strict=False)
    ]
    chosen = weights.split(size)
    return [replace(b, weights=w) for b, w in zip(batches, chosen, strict=True)] if weighted else batches


def gradients(step: TrainStep, group: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    loss = step(group, 0).loss
    found = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in step.model.parameters() if p.grad is not None]
    return float(loss), found


def test_the_loss_of_one_row_is_the_weighted_sum_over_tasks() -> None:
    loss = task_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([2.0, 0.5]), None, 1.0)
    assert float(loss) == pytest.approx(2 * math.log(2) + 0.5 * math.log(1 + math.exp(2)))


def test_rows_count_by_their_weights() -> None:
    logits, labels = torch.tensor([[1.0], [-1.0], [3.0]]), torch.tensor([[1.0], [1.0], [0.0]])
    weights = torch.tensor([1.0, 3.0, 0.0])
    loss = task_loss(logits, labels, torch.ones(1), weights, float(weights.sum()))
    a, b = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert float(loss) == pytest.approx((1 * a + 3 * b) / 4)


def test_weights_of_one_change_nothing(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 32, 1, weighted=False)
    plain = gradients(step_of(toy_dataset), [batch])
    weighted = gradients(step_of(toy_dataset), [replace(batch, weights=torch.ones(32))])
    assert plain[0] == pytest.approx(weighted[0], rel=1e-6)
    for a, b in zip(plain[1], weighted[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(weighted: bool, toy_dataset: Dataset) -> None:
    large, small = (batches_of(toy_dataset, size, 96 // size, weighted=weighted) for size in (96, 32))
    one, accumulated = gradients(step_of(toy_dataset), large), gradients(step_of(toy_dataset), small)
    assert accumulated[0] == pytest.approx(one[0], rel=1e-6)
    for a, b in zip(one[1], accumulated[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_an_unequal_last_batch_of_a_group_weighs_by_its_rows(toy_dataset: Dataset) -> None:
    (large,) = batches_of(toy_dataset, 96, 1, weighted=False)
    first, rest, *_ = Loader(toy_dataset, "train", batch_size=64).batches()
    rest = next(iter(Loader(toy_dataset, "train", batch_size=32).batches(start=2)))
    one, unequal = gradients(step_of(toy_dataset), [large]), gradients(step_of(toy_dataset), [first, rest])
    for a, b in zip(one[1], unequal[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_group_of_weightless_rows_moves_nothing(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 32, 1, weighted=False)
    loss, found = gradients(step_of(toy_dataset), [replace(batch, weights=torch.zeros(32))])
    assert loss == 0
    assert all(not g.any() for g in found)


def test_the_weight_of_a_batch_is_its_rows_or_the_sum_of_theirs(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 8, 1, weighted=False)
    assert weight_of(batch) == 8
    assert weight_of(replace(batch, weights=torch.full((8,), 0.5))) == 4


def test_task_weights_scale_the_gradient_of_their_tower_alone(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 32, 1, weighted=False)
    plain, heavy = step_of(toy_dataset), step_of(toy_dataset, "tasks={is_click: 1.0, long_view: 3.0}")
    for step in (plain, heavy):
        step([batch], 0)
    for task, factor in ((0, 1.0), (1, 3.0)):
        for a, b in zip(
            plain.model.towers.towers[task].parameters(), heavy.model.towers.towers[task].parameters(), strict=True
        ):
            assert a.grad is not None
            assert b.grad is not None
            torch.testing.assert_close(a.grad * factor, b.grad, rtol=1e-4, atol=1e-7)


def test_the_rates_and_the_temperature_follow_their_schedules(toy_dataset: Dataset) -> None:
    overrides = ("optimizer.decay=linear", "optimizer.embedding_lr=0.01", "temperature.schedule=linear")
    step = step_of(toy_dataset, *overrides, total=4)
    for number, batch in enumerate(batches_of(toy_dataset, 16, 4, weighted=False)):
        step([batch], number)
        assert step.optimizers["dense"].param_groups[0]["lr"] == pytest.approx(1e-3 * (1 - number / 4))
        assert step.optimizers["sparse"].param_groups[0]["lr"] == pytest.approx(1e-2 * (1 - number / 4))
        mixings = [module for module in step.model.modules() if isinstance(module, MatrixMixing)]
        assert [float(m.temperature) for m in mixings] == [pytest.approx(1 - 0.9 * number / 4)] * len(mixings)
        assert mixings


def test_the_gradient_is_clipped_to_its_norm(toy_dataset: Dataset) -> None:
    step = step_of(toy_dataset, "optimizer.clip_norm=0.001")
    step(batches_of(toy_dataset, 32, 1, weighted=False), 0)
    norms = [p.grad.norm() for p in dense_parameters(step.model) if p.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.001, rel=1e-3)


def test_adamw_shrinks_weights_by_its_decay(toy_dataset: Dataset) -> None:
    overrides = ("optimizer.dense=adamw", "optimizer.weight_decay=0.5", "optimizer.dense_lr=0.1")
    step = step_of(toy_dataset, *overrides)
    before = [p.detach().clone() for p in dense_parameters(step.model)]
    (batch,) = batches_of(toy_dataset, 16, 1, weighted=False)
    step([replace(batch, weights=torch.zeros(16))], 0)
    for old, new in zip(before, dense_parameters(step.model), strict=True):
        if new.grad is not None:
            torch.testing.assert_close(new.detach(), old * 0.95)


def test_a_loss_without_end_names_the_step_and_the_first_module(toy_dataset: Dataset) -> None:
    step = step_of(toy_dataset)
    with torch.no_grad():
        step.model.towers.towers[1][0].weight[0, 0] = float("nan")
    with pytest.raises(UnimixerError, match=r"^step 8: the loss is not finite; .* is 'towers\.towers\.1\.0'; there is"):
        step(batches_of(toy_dataset, 16, 1, weighted=False), 7)


def test_a_loss_without_end_and_finite_modules_point_to_the_weights(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 16, 1, weighted=False)
    with pytest.raises(UnimixerError, match="every module's output is finite, so look at the sample weights"):
        step_of(toy_dataset)([replace(batch, weights=torch.full((16,), float("nan")))], 0)


def test_an_id_outside_its_table_is_refused(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 16, 1, weighted=False)
    batch.sparse_ids[3, 0] = 10_000
    with pytest.raises(UnimixerError, match=r"row 3: user_id=10000 is out of range"):
        step_of(toy_dataset)([batch], 0)
