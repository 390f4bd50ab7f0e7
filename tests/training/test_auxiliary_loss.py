"""What modules add to the loss: penalties, their coefficient through a run, losses on intermediate tokens."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import train_killed
from tiny import assert_equal_tensors, facts_of, logged, tensors_of, tiny_recipe, tiny_values
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, RankMixer
from unimixer.blocks import ReLUMoE, pop_penalties
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.features.batch import Batch
from unimixer.ranker import Ranker
from unimixer.training.model import build_ranker, load_ranker, resolve
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep, task_loss
from unimixer.training.train import resume, train

MOE = (
    "model.backbone=rankmixer",
    "model.options={num_blocks: 2, ffn: relu-moe, ffn_options: {num_experts: 4, active_ratio: 0.3}}",
)
DEEP = ("model.backbone=deep", "model.options={num_blocks: 3}")


class Deep(RankMixer):
    """Gives the tokens after every block but the last."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.num_auxiliary = options.get("num_blocks", 2) - 1

    def forward(self, tokens: Tensor) -> Tensor:
        kept = []
        for i, sublayer in enumerate(self.stack.get_submodule("sublayers")):  # type: ignore[arg-type]
            tokens = self.stack.get_submodule(f"norms.{i}")(tokens + sublayer(tokens))
            if i % 2:
                kept.append(tokens)
        self.intermediates = kept[:-1] if self.records else None
        return tokens


class Scoring(nn.Module):
    """The dense part as a module."""

    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedded: Tensor) -> Tensor:
        return self.model.score(embedded)


@pytest.fixture(autouse=True)
def deep_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "deep", Deep)


def step_of(dataset: Dataset, *overrides: str) -> TrainStep:
    torch.manual_seed(0)
    recipe = resolve(tiny_recipe(dataset.folder, *overrides), dataset.transform.spec)
    model = build_ranker(recipe.model, dataset.transform.spec).train()
    return TrainStep(model, recipe, torch.tensor([0, 1]), total_steps=10, checkpoints=Path("nowhere"))


def batches_of(dataset: Dataset, size: int, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(Loader(dataset, "train", batch_size=size).batches(), range(count), strict=False)]


def gradients(step: TrainStep) -> dict[str, Tensor]:
    named = step.model.named_parameters()
    return {n: p.grad.to_dense() if p.grad.is_sparse else p.grad.clone() for n, p in named if p.grad is not None}


def moes(model: Ranker) -> list[ReLUMoE]:
    return [module for module in model.modules() if isinstance(module, ReLUMoE)]


# ---- penalties -------------------------------------------------------------------------------------------------------


def test_a_step_adds_the_penalties_to_the_gradient_and_not_to_the_reported_loss(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 64, 1)
    found = {}
    for coefficient in (1e-8, 0.5):
        step = step_of(toy_dataset, *MOE)
        for moe in moes(step.model):
            moe.coefficient.fill_(coefficient)
        twin = copy.deepcopy(step.model)
        outcome = step([batch], 0)
        found[coefficient] = gradients(step)
        logits = twin(batch)
        loss = task_loss(logits, outcome.labels, torch.ones(2), None, 64.0)
        assert float(outcome.loss) == pytest.approx(loss.item())
        (loss + pop_penalties(twin)).backward()
        for name, parameter in twin.named_parameters():
            if parameter.grad is not None and not parameter.grad.is_sparse:
                torch.testing.assert_close(found[coefficient][name], parameter.grad)
    differ = {name for name in found[0.5] if not torch.allclose(found[0.5][name], found[1e-8][name], atol=1e-6)}
    assert any("infer_router" in name for name in differ)
    assert not any("train_router" in name for name in differ if "sublayers.3" in name)  # the last layer's


def test_penalties_of_accumulated_batches_weigh_by_their_rows(toy_dataset: Dataset) -> None:
    (large,) = batches_of(toy_dataset, 96, 1)
    first, _ = batches_of(toy_dataset, 64, 2)
    rest = next(iter(Loader(toy_dataset, "train", batch_size=32).batches(start=2)))
    found = []
    for group in ([large], [first, rest]):
        step = step_of(toy_dataset, *MOE)
        for moe in moes(step.model):
            moe.coefficient.fill_(0.3)
        step(group, 0)
        found.append((gradients(step), [float(moe.coefficient) for moe in moes(step.model)]))
    assert found[0][1] == found[1][1]
    for name, gradient in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], gradient, rtol=1e-4, atol=1e-7)


def test_sample_weights_of_zero_leave_the_penalty(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 32, 1)
    step = step_of(toy_dataset, *MOE)
    step([replace(batch, weights=torch.zeros(32))], 0)
    moving = {name for name, gradient in gradients(step).items() if gradient.abs().max() > 0}
    assert "backbone.stack.sublayers.1.infer_router.linear.weight" in moving
    assert not any(name.startswith("towers") for name in moving)


def test_the_coefficient_moves_after_every_step_and_nothing_is_left(toy_dataset: Dataset) -> None:
    step = step_of(toy_dataset, *MOE)
    for number, batch in enumerate(batches_of(toy_dataset, 64, 3)):
        step([batch], number)
        for moe in moes(step.model):
            assert moe.coefficient.item() == pytest.approx(1e-8 * 1.2 ** (number + 1))  # half of the gates are open
            assert (moe.penalty, moe.counts, moe.totals) == (None, None, None)


def train_lines(run: RunFolder) -> list[dict[str, Any]]:
    return [line for line in run.history() if line["kind"] == "train"]


def test_the_log_has_the_active_ratio_and_the_coefficient_where_there_are_any(
    toy_folder: Path, tmp_path: Path, toy_run: RunFolder
) -> None:
    overrides = ("training.log_every=3", "training.max_steps=7")
    run = train(tiny_recipe(toy_folder, *MOE, *overrides), folder=tmp_path / "run", quiet=True)
    lines = train_lines(run)
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert all(0.2 < line["active_ratio"] < 0.8 for line in lines)
    expected = [pytest.approx(1e-8 * 1.2 ** (line["step"] - 1)) for line in lines]
    assert [line["penalty_coefficient"] for line in lines] == expected
    assert not {"active_ratio", "penalty_coefficient"} & set(train_lines(toy_run)[-1])


@pytest.mark.parametrize("accumulate", ["1", "3"])
def test_a_killed_run_resumes_with_its_coefficient_bit_for_bit(
    accumulate: str, toy_folder: Path, tmp_path: Path
) -> None:
    overrides = (
        *MOE,
        f"training.gradient_accumulation_steps={accumulate}",
        "training.epochs=2",
        "training.checkpoint_interval=2",
    )
    whole = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "whole", quiet=True)
    train_killed(tiny_values(toy_folder, *overrides), tmp_path / "run", "step", 5)
    resumed = resume(tmp_path / "run", quiet=True)
    for folder in ("best", "checkpoints/" + max(p.name for p in (whole.folder / "checkpoints").iterdir())):
        assert_equal_tensors(whole.folder / folder, resumed.folder / folder)
    assert facts_of(whole) == facts_of(resumed)
    assert logged(whole) == logged(resumed)
    kept = {name: float(t) for name, t in tensors_of(whole.folder / "best").items() if name.endswith(".coefficient")}
    assert len(kept) == 2
    assert all(value != pytest.approx(1e-8) for value in kept.values())
    ratios = [
        [(line["active_ratio"], line["penalty_coefficient"]) for line in train_lines(r)] for r in (whole, resumed)
    ]
    assert ratios[0] == ratios[1]


def test_a_mixture_meets_a_budget_and_scores_by_its_sparse_router(toy_folder: Path, tmp_path: Path) -> None:
    overrides = (*MOE, "model.width=null", "model.dense_params=20K", "training.max_steps=2")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["dense_parameters"] == pytest.approx(20_000, rel=0.02)
    model = load_ranker(run)
    (batch,) = batches_of(Dataset(toy_folder), 16, 1)
    before = model(batch)
    for moe in moes(model):
        assert moe.train_router is not None
        torch.nn.init.zeros_(moe.train_router.linear.weight)
    assert torch.equal(model(batch), before)


# ---- intermediate tokens ---------------------------------------------------------------------------------------------


def test_every_intermediate_has_towers_whose_loss_joins_by_its_weight(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 64, 1)
    step = step_of(toy_dataset, *DEEP, "training.aux_loss_weight=0.25", "tasks={is_click: 1.0, long_view: 2.0}")
    twin = copy.deepcopy(step.model)
    assert len(twin.auxiliary_towers) == 2
    outcome = step([batch], 0)
    found = gradients(step)
    logits = twin(batch)
    extra = twin.pop_auxiliary_logits()
    assert twin.pop_auxiliary_logits() == []
    assert twin.backbone.intermediates is None
    assert [logit.shape for logit in extra] == [(64, 2)] * 2
    weights = torch.tensor([1.0, 2.0])
    loss = task_loss(logits, outcome.labels, weights, None, 64.0)
    assert float(outcome.loss) == pytest.approx(loss.item())
    others = [task_loss(logit, outcome.labels, weights, None, 64.0) for logit in extra]
    (loss + 0.25 * others[0] + 0.25 * others[1]).backward()
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None and not parameter.grad.is_sparse:
            torch.testing.assert_close(found[name], parameter.grad)
    assert any(name.startswith("auxiliary_towers.1") for name in found)


def test_auxiliary_towers_run_in_training_alone(toy_dataset: Dataset) -> None:
    (batch,) = batches_of(toy_dataset, 8, 1)
    model = step_of(toy_dataset, *DEEP).model
    expected = model.eval()(batch)
    assert model.pop_auxiliary_logits() == []
    for parameter in model.auxiliary_towers.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    assert torch.equal(model(batch), expected)
    model.train()(batch)
    with torch.no_grad():
        model(batch)  # training mode, but nothing is learned
    assert model.pop_auxiliary_logits() == []
    model(batch)
    names = set(model.state_dict())
    twin = copy.deepcopy(model)
    assert twin.pop_auxiliary_logits() == []
    assert set(twin.state_dict()) == names
    assert len(model.pop_auxiliary_logits()) == 2


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
@pytest.mark.parametrize("readout", ["mean", "flatten"])
def test_the_scoring_with_intermediates_compiles_in_one_graph_and_exports(readout: str, toy_dataset: Dataset) -> None:
    step = step_of(toy_dataset, *DEEP, f"model.pooling={readout}", "model.tokenizer=random")
    model = step.model
    score = torch.compile(model.score, fullgraph=True, backend="aot_eager")
    found: list[list[Tensor]] = []
    for form in (model.score, score):
        model.zero_grad(set_to_none=True)
        for batch in batches_of(toy_dataset, 16, 2):
            logits = form(model.embedding(batch))
            extra = model.pop_auxiliary_logits()
            torch.stack([logits, *extra]).square().sum().backward()
        found.append([logits, *extra, *(p.grad for p in model.auxiliary_towers.parameters() if p.grad is not None)])
    assert len(found[0]) == 3 + 2 * 2 * 4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    scoring = Scoring(model.eval())
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    embedded = model.embedding(batches_of(toy_dataset, 5, 1)[0]).detach()
    program = torch.export.export(scoring, (embedded,), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(embedded[:3]), model.score(embedded[:3]))


def test_a_run_with_intermediates_trains_evaluates_and_loads(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, *DEEP, "training.max_steps=4"), folder=tmp_path / "run", quiet=True)
    model = load_ranker(run)
    assert len(model.auxiliary_towers) == 2
    off = train(
        tiny_recipe(toy_folder, *DEEP, "training.max_steps=4", "training.aux_loss_weight=0"),
        folder=tmp_path / "off",
        quiet=True,
    )
    losses = [train_lines(r)[-1]["loss"] for r in (run, off)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)  # the reported loss is that of the tasks in both
