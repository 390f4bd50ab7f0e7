"""Training with recomputed blocks and matrices computed once a step: the same run, in less memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import train_killed
from tiny import assert_equal_tensors, facts_of, logged, tiny_recipe, tiny_values
from torch import Tensor

from unimixer import ops
from unimixer.blocks import pop_penalties
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.mixing import Constrained
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, resolve, validate_recipe
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep, task_loss
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import resume, train

ON = "training.activation_checkpointing=true"
MIXER = (
    "training.gradient_accumulation_steps=3",
    "temperature.schedule=linear",
    "model.options={num_blocks: 3, matrices: blocks, rank: 4}",
)
MIXTURE = (
    *("training.gradient_accumulation_steps=2", "model.backbone=rankmixer"),
    "model.options={num_blocks: 2, ffn: relu-moe, ffn_options: {num_experts: 4, coefficient: 0.01}}",
)
DROPOUT = ("model.backbone=masknet", "model.options={dropout: 0.3, block_dims: [16, 8]}")


def run_of(dataset: Path, folder: Path, *overrides: str) -> RunFolder:
    recipe = parse(Recipe, tiny_values(dataset, *overrides), where="recipe")
    return train(recipe, folder=folder, quiet=True)


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    ends = [latest_checkpoint(run.folder / "checkpoints") for run in (one, other)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert_equal_tensors(ends[0], ends[1])
    assert_equal_tensors(one.folder / "best", other.folder / "best")
    assert facts_of(one) == facts_of(other)
    assert logged(one) == logged(other)


@pytest.mark.parametrize("overrides", [MIXER, MIXTURE, DROPOUT], ids=["mixer", "mixture", "dropout"])
def test_a_run_that_recomputes_ends_in_the_same_bits(
    overrides: tuple[str, ...], toy_folder: Path, tmp_path: Path
) -> None:
    plain = run_of(toy_folder, tmp_path / "plain", *overrides)
    assert_same_run(run_of(toy_folder, tmp_path / "recomputed", *overrides, ON), plain)


def test_a_killed_run_that_recomputes_resumes_to_the_bits_of_a_plain_one(toy_folder: Path, tmp_path: Path) -> None:
    plain = run_of(toy_folder, tmp_path / "plain", *MIXER, "training.eval_interval=2")
    values = tiny_values(toy_folder, *MIXER, "training.eval_interval=2", ON)
    train_killed(values, tmp_path / "run", "step", 3)
    assert_same_run(resume(tmp_path / "run", quiet=True), plain)


def step_of(dataset: Dataset, *overrides: str) -> TrainStep:
    torch.manual_seed(0)
    recipe = resolve(tiny_recipe(dataset.folder, *overrides), dataset.transform.spec)
    model = build_ranker(recipe.model, dataset.transform.spec).train()
    return TrainStep(model, recipe, torch.tensor([0, 1]), total_steps=10, checkpoints=Path("nowhere"))


def batches_of(dataset: Dataset, size: int, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(Loader(dataset, "train", batch_size=size).batches(), range(count), strict=False)]


def dense(model: torch.nn.Module) -> list[Tensor]:
    return [p.grad.to_dense() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("overrides", [(), (ON,), (*MIXTURE[1:], ON)], ids=["plain", "recomputed", "mixture"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_step_has_the_gradients_of_a_loop_over_its_batches(
    overrides: tuple[str, ...], count: int, toy_dataset: Dataset
) -> None:
    step, loop = step_of(toy_dataset, *overrides), step_of(toy_dataset, *(o for o in overrides if o != ON))
    group = batches_of(toy_dataset, 32, count)
    step(group, 0)
    for part in loop.model.modules():
        if isinstance(part, Constrained):
            part.temperature.fill_(0.1)  # the step's, by the default schedule
    for batch in group:
        assert batch.labels is not None
        loss = task_loss(loop.model(batch), batch.labels, loop.task_weights, None, 32 * count)
        penalty = pop_penalties(loop.model)
        torch.autograd.backward(loss if penalty is None else loss + penalty / count)
    for a, b in zip(dense(loop.model), dense(step.model), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-7)


def test_a_step_solves_once_for_all_batches_and_recomputations(
    toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    solver = ops.sinkhorn

    def counted(logits: Tensor, **options: Any) -> Tensor:
        calls.append(len(logits))
        return solver(logits, **options)

    monkeypatch.setattr(ops, "sinkhorn", counted)
    step = step_of(toy_dataset, "model.options={num_blocks: 3, matrices: blocks, rank: 4, block_size: 2}", ON)
    step(batches_of(toy_dataset, 16, 4), 0)
    assert calls == [3, 3]  # between blocks and inside them, three layers each


def test_a_step_that_fails_leaves_no_matrices_behind(toy_dataset: Dataset) -> None:
    step = step_of(toy_dataset)
    with torch.no_grad():
        step.model.towers.towers[0][0].weight[0, 0] = float("nan")
    with pytest.raises(UnimixerError, match="not finite"):
        step(batches_of(toy_dataset, 16, 2), 0)
    parts = [part for part in step.model.modules() if isinstance(part, Constrained)]
    assert parts
    assert all(part._held is None and all(p.grad is None for p in part.parameters()) for part in parts)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at every input
def test_a_compiled_step_recomputes_and_accumulates(toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    options = (
        "model.options={num_blocks: 2, matrices: blocks, rank: 4, ffn: relu-moe, ffn_options: {coefficient: 0.01}}"
    )
    plain, both = step_of(toy_dataset, options), step_of(toy_dataset, options, ON, "training.compile=true")
    for number in range(2):
        for step in (plain, both):
            step(batches_of(toy_dataset, 16, 3), number)
        for a, b in zip(dense(plain.model), dense(both.model), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_backbone_without_blocks_is_refused_before_there_is_a_run(toy_dataset: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe(toy_dataset.folder, "model.backbone=mlp", "model.options={}", ON)
    with pytest.raises(UnimixerError, match=r"^training\.activation_checkpointing=true: backbone 'mlp' has no blocks"):
        validate_recipe(resolve(recipe, toy_dataset.transform.spec), toy_dataset.transform.spec)
    with pytest.raises(UnimixerError, match="leave activation_checkpointing out"):
        train(recipe, folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
