"""Training on probabilities: the target, the recipe that names it, and the distance from the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from toy import tables_of, toy_frames, toy_schema

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.metrics import excess_log_loss
from unimixer.training.evaluation import evaluate_model, soft_columns, task_columns
from unimixer.training.model import build_ranker, load_ranker, resolve, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep, task_loss
from unimixer.training.train import resume, train

LABELS: list[dict[str, Any]] = [
    {"name": "is_click", "probability": "p"},
    {"name": "long_view", "source": "watch_s", "threshold": 10},
    {"name": "true_click", "source": "p", "soft": True},
    {"name": "teacher", "soft": True},
]


@pytest.fixture(scope="module")
def soft_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    log, users, items = toy_frames(1_200)
    rng = np.random.default_rng(0)
    log = log.with_columns(p=rng.uniform(0.05, 0.95, log.height), teacher=rng.random(log.height).astype(np.float32))
    return prepare(tables_of(toy_schema(labels=LABELS), log, users, items), tmp_path_factory.mktemp("soft") / "data")


def step_of(dataset: Dataset, *overrides: str) -> TrainStep:
    torch.manual_seed(0)
    recipe = resolve(tiny_recipe(dataset.folder, *overrides), dataset.transform.spec)
    model = build_ranker(recipe.model, with_tasks(dataset.transform.spec, tuple(recipe.tasks))).train()
    columns, soft = task_columns(dataset, tuple(recipe.tasks)), soft_columns(dataset, recipe)
    return TrainStep(model, recipe, columns, soft_columns=soft, total_steps=10, checkpoints=Path("nowhere"))


def test_hard_labels_are_the_tasks_unless_there_are_none(soft_dataset: Dataset) -> None:
    spec = soft_dataset.transform.spec
    assert tuple(resolve(tiny_recipe(soft_dataset.folder), spec).tasks) == ("is_click", "long_view")
    only = replace(spec, labels=("a", "b"), soft_labels=("a", "b"))
    assert tuple(resolve(tiny_recipe(soft_dataset.folder), only).tasks) == ("a", "b")


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_target_is_the_mixture_of_the_hard_and_the_soft_label(soft_dataset: Dataset, weight: float) -> None:
    step = step_of(soft_dataset, f"soft_labels.is_click={{label: teacher, weight: {weight}}}")
    batch = next(Loader(soft_dataset, "train", batch_size=64).batches())
    assert batch.labels is not None
    labels = batch.labels.double()
    mixed = (1 - weight) * labels[:, 0] + weight * labels[:, 3]
    outcome = step([batch], 0)
    expected = task_loss(
        outcome.logits.double(), torch.stack([mixed, labels[:, 1]], 1), torch.ones(2).double(), None, 64
    )
    assert float(outcome.loss) == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(outcome.labels, batch.labels[:, :2])


def test_a_recipe_without_soft_labels_trains_on_the_bits_of_the_labels(soft_dataset: Dataset) -> None:
    batch = next(Loader(soft_dataset, "train", batch_size=64).batches())
    assert batch.labels is not None
    outcome = step_of(soft_dataset)([batch], 0)
    assert torch.equal(outcome.loss, task_loss(outcome.logits, batch.labels[:, :2], torch.ones(2), None, 64))


def test_a_soft_label_may_be_a_task(soft_dataset: Dataset) -> None:
    step = step_of(soft_dataset, "tasks={true_click: 1.0}")
    batch = next(Loader(soft_dataset, "train", batch_size=64).batches())
    assert batch.labels is not None
    outcome = step([batch], 0)
    expected = task_loss(outcome.logits, batch.labels[:, 2:3], torch.ones(1), None, 64)
    assert float(outcome.loss) == pytest.approx(float(expected), rel=1e-6)


MISTAKES = [
    ("soft_labels.is_clik=teacher", "unknown task of soft_labels 'is_clik'; did you mean 'is_click'?"),
    ("soft_labels.is_click=techer", "unknown soft_labels.is_click 'techer'; did you mean 'teacher'?"),
    ("soft_labels.is_click=long_view", "unknown soft_labels.is_click 'long_view'; known: teacher, true_click"),
    ("soft_labels.is_click={label: teacher, weight: 0}", "input should be greater than 0"),
    ("soft_labels.is_click={label: teacher, weight: 1.5}", "input should be less than or equal to 1"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(soft_dataset: Dataset, override: str, message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        resolve(tiny_recipe(soft_dataset.folder, override), soft_dataset.transform.spec)
    assert message in str(error.value)


def test_the_excess_needs_the_truth_of_the_task(soft_dataset: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe(soft_dataset.folder, "training.monitor=long_view.excess_log_loss")
    with pytest.raises(UnimixerError, match=r"no soft label of the schema reads it; monitor long_view\.log_loss"):
        train(recipe, folder=tmp_path / "run", quiet=True)


def test_a_run_on_the_truth_reports_its_excess_everywhere(soft_dataset: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        soft_dataset.folder, "soft_labels.is_click=true_click", "training.monitor=is_click.excess_log_loss"
    )
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    assert run.result is not None
    found = run.result["test"]["is_click"]
    model = load_ranker(run)
    (batch,) = Loader(soft_dataset, "test", batch_size=100_000).batches()
    assert batch.labels is not None
    with torch.no_grad():
        logits = model(batch)[:, 0].numpy()
    assert found["excess_log_loss"] == pytest.approx(excess_log_loss(logits, batch.labels[:, 2]), rel=1e-5)
    assert found["excess_log_loss_error"] > 0
    assert run.result["test"]["long_view"]["excess_log_loss"] is None
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in metrics if line["kind"] == "validation" and line["task"] == "is_click"]
    assert min(line["excess_log_loss"] for line in lines) == pytest.approx(
        run.result["validation"]["is_click"]["excess_log_loss"], rel=1e-6
    )
    again = evaluate_model(model, soft_dataset, "test", ("is_click", "long_view"))
    assert again["is_click"].excess_log_loss == pytest.approx(found["excess_log_loss"], rel=1e-6)
    assert resume(RunFolder(run.folder).folder, quiet=True).recipe.soft_labels["is_click"].weight == 1


def test_training_on_the_truth_comes_closer_to_it_than_training_on_drawn_labels(tmp_path: Path) -> None:
    log, users, items = toy_frames(3_000)
    rng = np.random.default_rng(0)
    taste = {f"u{n}": logit for n, logit in enumerate(rng.normal(size=12))}
    p = 1 / (1 + np.exp(-np.array([taste[user] for user in log["user_id"]])))
    log = log.with_columns(p=pl.Series(p), is_click=pl.Series((rng.random(log.height) < p).astype(np.int64)))
    data = prepare(tables_of(toy_schema(labels=LABELS[:3]), log, users, items), tmp_path / "data")
    excess = []
    for name, soft in (("hard", ()), ("soft", ("soft_labels.is_click=true_click",))):
        recipe = tiny_recipe(data.folder, "tasks={is_click: 1.0}", "training.epochs=3", *soft)
        run = train(recipe, folder=tmp_path / name, quiet=True)
        assert run.result is not None
        excess.append(run.result["test"]["is_click"]["excess_log_loss"])
    assert excess[1] < excess[0]
