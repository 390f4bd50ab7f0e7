"""The mean of the dense weights: its equation, what has it, and that a killed run ends in the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from killed import train_killed
from tiny import assert_equal_tensors, facts_of, tensors_of, tiny_recipe, tiny_values

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.ranker import TABLES, dense_parameters
from unimixer.settings import parse
from unimixer.training.averaging import MEAN, Averaging
from unimixer.training.averaging_config import AveragingConfig
from unimixer.training.evaluation import as_json, evaluate_model
from unimixer.training.model import build_ranker, load_ranker, resolve
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import resume, train

EMA, SWA = ("averaging.kind=ema", "averaging.decay=0.7"), ("averaging.kind=swa", "averaging.start=0.5")
STEPS = 8
EIGHT_STEPS = ("training.epochs=2", f"training.max_steps={STEPS}", "training.eval_interval=4")


def averaging(folder: Path, **config: Any) -> tuple[Averaging, torch.Tensor]:
    """The mean of a model, and the numbers of one parameter of it."""
    spec = Dataset(folder).transform.spec
    model = build_ranker(resolve(tiny_recipe(folder), spec).model, spec)
    return Averaging(model, AveragingConfig(**config), STEPS), dense_parameters(model)[0].detach()


def means(one: Averaging, weight: torch.Tensor) -> list[float | None]:
    """The mean after every step in which the weight is the number of the step squared."""
    found: list[float | None] = []
    for step in range(STEPS):
        one.observe(step)
        weight.fill_(step**2)
        one.step()
        state = one.state[dense_parameters(one.model)[0]]
        found.append(float(state[MEAN].flatten()[0]) if state else None)
    return found


def test_an_exponential_mean_follows_its_equation_and_forgets_the_first_steps(toy_folder: Path) -> None:
    mean, expected = 0.0, []
    for step in range(STEPS):
        decay = min(0.3, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * step**2 if step else 0.0
        expected.append(mean)
    assert means(*averaging(toy_folder, kind="ema", decay=0.3)) == pytest.approx(expected, rel=1e-6)
    assert (1 + 2) / (10 + 2) < 0.3 < (1 + 3) / (10 + 3)  # three steps have a decay of their own


def test_a_plain_mean_begins_at_its_share_of_the_steps(toy_folder: Path) -> None:
    expected = [None, None, None, None, 16.0, (16 + 25) / 2, (16 + 25 + 36) / 3, (16 + 25 + 36 + 49) / 4]
    assert means(*averaging(toy_folder, kind="swa", start=0.5)) == [
        None if mean is None else pytest.approx(mean, rel=1e-6) for mean in expected
    ]


def test_a_plain_mean_has_the_last_step_at_least(toy_folder: Path) -> None:
    assert means(*averaging(toy_folder, kind="swa", start=0.99)) == [None] * (STEPS - 1) + [49.0]


def test_a_model_has_the_mean_inside_and_its_own_bits_afterwards(toy_folder: Path) -> None:
    one, weight = averaging(toy_folder, kind="ema")
    means(one, weight)
    own = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    mean = one.state[dense_parameters(one.model)[0]][MEAN]

    def interrupted() -> None:
        with one.applied():
            assert torch.equal(weight, mean)
            assert float(mean.flatten()[0]) != 49.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert [name for name, tensor in one.model.state_dict().items() if not torch.equal(tensor, own[name])] == []


def newest(run: RunFolder) -> Path:
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("kind", [EMA, SWA], ids=["ema", "swa"])
def test_best_weights_are_means_and_a_checkpoint_has_both(
    kind: tuple[str, ...], toy_folder: Path, tmp_path: Path
) -> None:
    always = ("training.monitor=is_click.log_loss", "optimizer.dense_lr=0.0001")  # the last evaluation is the best
    run = train(tiny_recipe(toy_folder, *kind, *EIGHT_STEPS, *always), folder=tmp_path / "run", quiet=True)
    assert (run.result or {})["best_step"] == STEPS
    last, best = tensors_of(newest(run)), tensors_of(run.best_weights.parent)
    names = [name for name, _ in load_ranker(run).named_parameters() if not name.startswith(TABLES)]
    moved = 0
    for number, name in enumerate(names):
        mean, own = last[f"optimizer.safetensors:averaging.{number}.mean"], last[f"model.safetensors:{name}"]
        assert torch.equal(best[f"model.safetensors:{name}"], mean)
        moved += int(not torch.equal(mean, own))
    assert moved > len(names) / 2
    for name in best:
        if TABLES in name:
            assert torch.equal(best[name], last[name])  # tables have no mean


def test_the_run_reports_the_metrics_of_the_mean(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, *EMA, *EIGHT_STEPS), folder=tmp_path / "run", quiet=True)
    dataset, result = Dataset(toy_folder), run.result or {}
    measured = evaluate_model(load_ranker(run), dataset, "validation", tuple(run.recipe.tasks))
    assert as_json(measured) == result["validation"]
    line = next(x for x in run.history() if x["kind"] == "validation" and x["step"] == result["best_step"])
    assert line["auc"] == measured[line["task"]].auc


@pytest.mark.parametrize("kind", [EMA, SWA], ids=["ema", "swa"])
@pytest.mark.parametrize(("place", "call"), [("step", 6), ("evaluation", 1), ("best weights", 1), ("checkpoint", 5)])
def test_a_killed_run_ends_in_the_same_bits(
    kind: tuple[str, ...], place: str, call: int, toy_folder: Path, tmp_path: Path
) -> None:
    overrides = (*kind, *EIGHT_STEPS)
    whole = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "whole", quiet=True)
    train_killed(tiny_values(toy_folder, *overrides), tmp_path / "killed", place, call)
    resumed = resume(tmp_path / "killed", quiet=True)
    assert_equal_tensors(whole.best_weights.parent, resumed.best_weights.parent)
    assert_equal_tensors(newest(whole), newest(resumed))
    assert facts_of(whole) == facts_of(resumed)


def test_averaging_does_not_change_the_training(toy_folder: Path, tmp_path: Path) -> None:
    runs = [
        train(tiny_recipe(toy_folder, *kind, *EIGHT_STEPS), folder=tmp_path / str(number), quiet=True)
        for number, kind in enumerate(((), EMA))
    ]
    losses = [[line["loss"] for line in run.history() if line["kind"] == "train"] for run in runs]
    assert losses[0] == losses[1]
    plain, averaged = (tensors_of(newest(run)) for run in runs)
    assert [name for name in plain if not torch.equal(plain[name], averaged[name])] == []


def test_a_key_without_its_kind_is_refused_and_a_recipe_that_was_written_out_is_read_again() -> None:
    for values, message in (
        ({"decay": 0.9}, "averaging.decay needs averaging.kind=ema and has no effect without"),
        ({"decay": 0.999}, "averaging.decay needs averaging.kind=ema"),
        ({"kind": "ema", "start": 0.5}, "averaging.start needs averaging.kind=swa"),
        ({"decay": 0.9, "start": 0.75}, "averaging.decay needs averaging.kind=ema"),
    ):
        with pytest.raises(UnimixerError, match=message):
            parse(AveragingConfig, values, where="recipe")
    for config in (AveragingConfig(), AveragingConfig(kind="ema", decay=0.9), AveragingConfig(kind="swa", start=0.5)):
        assert parse(AveragingConfig, config.model_dump(), where="recipe") == config
    ablated = {"kind": "swa", "decay": 0.9, "start": 0.75}  # of a recipe with an EMA, by two keys
    assert parse(AveragingConfig, ablated, where="recipe").kind == "swa"
