"""A run whose labels form a chain, with experts and learned weights of losses: metrics, scores, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import assert_equal_tensors, facts_of, logged, tiny_recipe
from toy import tables_of, toy_frames, toy_schema

from unimixer import Predictor
from unimixer.api import evaluate
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.training.evaluation import check_chain
from unimixer.training.model import build_ranker, load_ranker, resolve, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.train import resume, train
from unimixer.training.warm_start import WarmStart

CHAIN = "model.chain={long_view: is_click}"
OVERRIDES = (
    *(CHAIN, "model.task_head=ple", "model.task_head_options={num_experts: 1, expert_dims: [8]}"),
    *("loss_weighting.kind=gradnorm", "model.backbone=mlp", "model.options={}", "training.checkpoint_interval=2"),
    *("training.max_steps=4", "training.monitor=long_view_given_is_click.auc"),
)


def log_of_a_chain() -> pl.DataFrame:
    """Impressions whose long views follow a click, but for one on the first day."""
    log = toy_frames()[0]
    view = pl.when(pl.col("is_click") == 1).then("watch_s").otherwise(0.0)
    first = int((log["is_click"] == 0).arg_max() or 0)
    return log.with_columns(pl.when(pl.int_range(pl.len()) == first).then(60.0).otherwise(view).alias("watch_s"))


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a chain, and a run on it."""
    folder = tmp_path_factory.mktemp("chained")
    _, users, items = toy_frames()
    prepare(tables_of(toy_schema(), log_of_a_chain(), users, items), folder / "data")
    train(tiny_recipe(folder / "data", *OVERRIDES), folder=folder / "run", quiet=True)
    return folder


def test_both_probabilities_are_measured_and_the_weights_logged(chained: Path) -> None:
    run = RunFolder(chained / "run")
    result = run.result or {}
    assert list(result["test"]) == ["is_click", "long_view", "long_view_given_is_click"]
    clicks = Dataset(chained / "data").summary("test").positives[0]
    assert result["test"]["long_view_given_is_click"]["num_rows"] == clicks
    assert {task: values.as_dict() for task, values in evaluate(run.folder, "test").items()} == result["test"]
    steps = [line for line in run.history() if line["kind"] == "train"]
    weights = [(line["loss_weight/is_click"], line["loss_weight/long_view"]) for line in steps]
    assert len(set(weights)) == len(steps) == 4
    assert all(sum(pair) == pytest.approx(2.0) for pair in weights)
    assert result["loss_weights"] == dict(zip(("is_click", "long_view"), weights[-1], strict=True))


def test_scores_have_the_conditional_probability_beside_the_joint_one(chained: Path, tmp_path: Path) -> None:
    rows = log_of_a_chain().tail(300)
    scores = Predictor(chained / "run").predict(rows)
    assert scores.columns == ["is_click", "long_view", "long_view_given_is_click"]
    click, view, given = scores.to_numpy().T
    assert (view < click).all()
    np.testing.assert_allclose(click * given, view, rtol=1e-5)
    rows.write_parquet(tmp_path / "rows.parquet")
    measured = evaluate(chained / "run", rows=tmp_path / "rows.parquet")
    clicked = rows["is_click"].to_numpy() == 1
    assert measured["long_view_given_is_click"].num_rows == clicked.sum()
    share = given[clicked].mean() / (rows["watch_s"].to_numpy()[clicked] >= 10).mean()
    assert measured["long_view_given_is_click"].calibration == pytest.approx(share, rel=1e-5)


def test_a_resumed_run_ends_in_the_same_bits(chained: Path, tmp_path: Path) -> None:
    whole, folder = RunFolder(chained / "run"), tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-000000004")
    shutil.rmtree(folder / "best")
    (folder / "best").mkdir()
    resumed = resume(folder, dataset=chained / "data", quiet=True)
    assert_equal_tensors(*(run.checkpoints / "step-000000004" for run in (whole, resumed)))
    assert facts_of(whole) == facts_of(resumed)
    assert logged(whole) == logged(resumed)
    state = json.loads((folder / "checkpoints" / "step-000000004" / "state.json").read_text(encoding="utf-8"))
    assert state["step"] == 4


def test_experts_and_gates_follow_their_tasks_to_another_order(chained: Path) -> None:
    source, dataset = RunFolder(chained / "run"), Dataset(chained / "data")
    recipe = tiny_recipe(chained / "data", *OVERRIDES, "tasks={long_view: 1, is_click: 1}")
    resolved = resolve(recipe, dataset.transform.spec)
    model = build_ranker(resolved.model, with_tasks(dataset.transform.spec, tuple(resolved.tasks)))
    model.load_state_dict(WarmStart(source, model, dataset.transform).state(model))
    batch = next(iter(Loader(dataset, "test", batch_size=16).batches()))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch)[:, [1, 0]], load_ranker(source)(batch))


def test_a_tower_of_another_meaning_is_no_start(chained: Path) -> None:
    source, dataset = RunFolder(chained / "run"), Dataset(chained / "data")
    unchained = tiny_recipe(chained / "data", *OVERRIDES, "model.chain={}", "training.monitor=is_click.auc")
    model = build_ranker(resolve(unchained, dataset.transform.spec).model, dataset.transform.spec)
    message = "its tower of 'long_view' scores given 'is_click', and here of all rows; use the same model.chain"
    with pytest.raises(UnimixerError, match=message):
        WarmStart(source, model, dataset.transform)


# ---- rows that break a chain ----------------------------------------------------------------------------------------


def test_a_few_rows_that_break_the_chain_are_counted_and_said(chained: Path) -> None:
    dataset = Dataset(chained / "data")
    positives = dataset.summary("train").positives[1]
    said = f"model.chain: 1 of {positives} train rows with long_view have no is_click; they keep their labels"
    assert check_chain(dataset, {"long_view": "is_click"}) == [said]
    assert said in (chained / "run" / "train.log").read_text(encoding="utf-8")
    assert check_chain(dataset, {}) == []


def test_a_label_that_does_not_depend_on_the_other_is_refused(toy_dataset: Dataset, tmp_path: Path) -> None:
    message = r"train rows with long_view have no is_click, more than 1%, so long_view does not depend on is_click"
    with pytest.raises(UnimixerError, match=message):
        train(tiny_recipe(toy_dataset.folder, CHAIN), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_that_always_follows_has_nothing_to_learn(tmp_path: Path) -> None:
    log, users, items = toy_frames()
    always = log.with_columns((60.0 * pl.col("is_click")).alias("watch_s"))
    dataset = prepare(tables_of(toy_schema(), always, users, items), tmp_path / "data")
    with pytest.raises(UnimixerError, match="long_view is 1 in all train rows with is_click, so there is nothing to"):
        check_chain(dataset, {"long_view": "is_click"})


def test_a_chain_of_unknown_labels_is_refused_before_a_folder_is_made(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(toy_folder, "model.chain={long_view: click}")
    with pytest.raises(UnimixerError, match="unknown task of chain 'click'"):
        train(recipe, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
