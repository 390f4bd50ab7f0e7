"""A study with real processes: every row once, each of them what its recipe trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small import LITE, small_cases, small_study
from tiny import caller_states

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.experiments import Experiment, Machine, load_rows, plan_experiment
from unimixer.experiments import progress_view as view
from unimixer.experiments.executor import recipe_values
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.plan import Study, read_plan
from unimixer.experiments.progress_view import Lines, position
from unimixer.experiments.results import scores_path
from unimixer.experiments.worker import train_row
from unimixer.io import write_text
from unimixer.metrics import MetricAccumulator
from unimixer.settings import dump_yaml
from unimixer.training.train import train

ONE = Machine(workers=1, threads=1)
GRID = [1e-3, 1e-2]


@pytest.fixture(scope="module")
def whole(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment]:
    """A finished study; tests must not change it."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    before = caller_states()
    planned = plan_experiment(small_study(toy_folder, dense_lr=GRID), folder, ONE)
    assert planned.missing == 6
    outcome = planned.compute(quiet=True)
    assert (len(outcome.computed), outcome.existing, outcome.failed) == (6, 0, [])
    assert caller_states() == before
    return folder, planned


def test_every_model_has_its_grid_with_the_first_seed_and_all_seeds_at_the_best(whole: tuple[Path, Experiment]) -> None:
    rows = load_rows(whole[0])
    for variant in ("rankmixer", "lite"):
        own = rows.filter(pl.col("variant") == variant)
        searched = own.filter(pl.col("seed") == 0).sort("validation_is_click_auc")
        assert searched["phase"].to_list() == ["search", "both"]
        final = own.filter(pl.col("phase").is_in(["final", "both"]))
        assert sorted(final["seed"].to_list()) == [0, 1]
        assert set(final["dense_lr"].to_list()) == {searched["dense_lr"].to_list()[-1]}
    assert set(rows["steps"].to_list()) == {rows["samples"][0] // 128 + 1}
    assert rows["variant"].to_list() == ["rankmixer"] * 3 + ["lite"] * 3  # the order of the plan


def test_rows_of_a_model_that_the_plan_lacks_are_refused(whole: tuple[Path, Experiment], tmp_path: Path) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "study")
    write_text(folder / Study.file, dump_yaml(whole[1].plan.model_copy(update={"models": whole[1].plan.models[:1]})))
    with pytest.raises(UnimixerError, match=r"rows of model 'lite', which study.yaml lacks; write it there again"):
        load_rows(folder)


def test_a_row_is_what_the_same_recipe_trains_in_this_process(
    whole: tuple[Path, Experiment], toy_folder: Path, tmp_path: Path
) -> None:
    folder, planned = whole
    job = planned.cases[1].job(1, _chosen(folder, "lite"))
    run = train(job.recipe, folder=tmp_path / "run", quiet=True)
    row = json.loads((folder / "rows" / f"{job.key}.json").read_text())
    assert run.result is not None
    for split in ("validation", "test"):
        metrics = run.result[split]["is_click"]
        assert row[f"{split}_is_click_auc"] == metrics["auc"]
        assert row[f"{split}_is_click_ne"] == metrics["normalised_entropy"]
        assert row[f"{split}_is_click_users_left_out"] == metrics["users_left_out"]
    assert (row["dense_params"], row["table_params"]) == (
        run.result["dense_parameters"],
        run.result["table_parameters"],
    )
    assert (row["threads"], row["processes"], row["dataset_hash"]) == (1, 1, Dataset(toy_folder).hash)


def test_kept_scores_give_the_metrics_of_the_row(whole: tuple[Path, Experiment], toy_folder: Path) -> None:
    folder, dataset = whole[0], Dataset(toy_folder)
    labels = np.load(folder / "scores" / f"{dataset.hash}-labels.npy")
    users = np.load(folder / "scores" / f"{dataset.hash}-users.npy")
    assert (labels.dtype, users.dtype, len(labels)) == (np.uint8, np.int64, dataset.summary("test").rows)
    for row in load_rows(folder).to_dicts():
        logits = np.load(folder / "scores" / f"{row['key']}.npy")
        assert logits.dtype == np.float32
        accumulator = MetricAccumulator(("is_click",))
        accumulator.update(logits, labels, users)
        found = accumulator.compute()["is_click"]
        assert (found.auc, found.uauc) == (row["test_is_click_auc"], row["test_is_click_uauc"])
        assert (found.log_loss, found.calibration) == (row["test_is_click_log_loss"], row["test_is_click_calibration"])


def test_scores_of_a_run_that_was_finished_before_are_those_that_were_heard(toy_folder: Path, tmp_path: Path) -> None:
    job = small_cases(toy_folder)[0].job(0, Rates(1e-3, 1e-3))
    message = {"folder": str(tmp_path), "columns": job.columns(), "processes": 1, "machine": "this one"}
    message["recipe"] = recipe_values(job, ONE)
    row = train_row(message)
    path = scores_path(tmp_path, job.key)
    heard = np.load(path)
    path.unlink()  # killed between the end of the run and its scores
    again = train_row(message)
    assert again == row
    np.testing.assert_array_equal(np.load(path), heard)


def test_finished_rows_leave_their_curves_and_no_weights(whole: tuple[Path, Experiment]) -> None:
    folder, planned = whole
    runs = sorted((folder / "runs").iterdir())
    assert len(runs) == 6
    for run in runs:
        assert sorted(path.name for path in run.iterdir() if path.name[0] != ".") == [
            *("config.yaml", "environment.json", "metrics.jsonl", "result.json", "train.log"),
        ]
        steps, speed = position(run)
        assert steps == planned.cases[0].steps
        assert speed is not None
    assert len(pl.read_csv(folder / "rows.csv")) == len(pl.read_parquet(folder / "rows.parquet")) == 6


def test_nothing_is_computed_twice_and_a_seed_more_is_all_that_is(
    whole: tuple[Path, Experiment], toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    planned = plan_experiment(small_study(toy_folder, dense_lr=GRID), folder, ONE)
    assert (planned.missing, planned.seconds()) == (0, 0.0)
    assert planned.compute(quiet=True).existing == 6
    more = plan_experiment(small_study(toy_folder, dense_lr=GRID, models=[LITE], seeds=3, base="lite"), folder, ONE)
    assert more.missing == 1
    outcome = more.compute(quiet=True)
    assert [row["seed"] for row in outcome.computed] == [2]
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    assert len(after) == 7
    assert {name: after[name] for name in before} == before


def _chosen(folder: Path, variant: str) -> Rates:
    final = load_rows(folder).filter((pl.col("variant") == variant) & (pl.col("phase") == "both"))
    return Rates.of(final.row(0, named=True))


def test_the_plan_of_a_study_holds_what_was_asked(whole: tuple[Path, Experiment]) -> None:
    plan = read_plan(whole[0], Study)
    assert isinstance(plan, Study)
    assert (plan.seeds, plan.dense_lr, plan.data[0].name) == (2, (1e-3, 1e-2), "toy")


def test_a_study_in_a_pipe_says_where_its_rows_stand(
    whole: tuple[Path, Experiment], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, planned = whole
    case = planned.cases[0]
    job = case.job(0, Rates(1e-3, case.recipe.optimizer.embedding_lr))
    lines = Lines(folder)
    lines.running([job], 1, 6, 600.0)
    assert capsys.readouterr().err == ""  # something was said a moment ago
    monkeypatch.setattr(view, "SILENCE", 0.0)
    lines.running([job], 1, 6, 600.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"[1/6] under way: {job.key} step {case.steps} of {case.steps}, ")
    assert line.endswith(" samples/s, about 10 min left")
