"""The main job as a few calls."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml
from tiny import RECIPE, assert_equal_tensors, facts_of, tiny_recipe, tiny_values
from toy import DAY, START, toy_frames

from unimixer import Run, UnimixerError, evaluate, export, predict, prepare, train
from unimixer.data.dataset import Dataset
from unimixer.training.evaluation import as_json
from unimixer.training.run import RunFolder


def test_a_data_set_by_its_name_becomes_a_dataset(tmp_path: Path) -> None:
    dataset = prepare("synthetic", tmp_path / "store", rows=2_000, users=50, items=50)
    assert isinstance(dataset, Dataset)
    assert dataset.manifest["origin"]["source"] == "synthetic"
    assert dataset.manifest["origin"]["options"] == {"rows": 2_000, "users": 50, "items": 50}
    with pytest.raises(UnimixerError, match="store exists"):
        prepare("synthetic", tmp_path / "store", rows=2_000)
    with pytest.raises(UnimixerError, match=r"unknown option 'rovs'; did you mean 'rows'\?"):
        prepare("synthetic", tmp_path / "other", rovs=1)
    recipe = {**RECIPE, "dataset": str(dataset.folder), "training": {**RECIPE["training"], "max_steps": 1}}
    assert (train(recipe, folder=tmp_path / "run", quiet=True).result or {})["best_reachable_auc"]["test"][
        "click"
    ] > 0.5


def test_a_recipe_its_values_and_its_file_train_the_same(toy_folder: Path, tmp_path: Path) -> None:
    values = tiny_values(toy_folder, "training.max_steps=2")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    forms = (tiny_recipe(toy_folder, "training.max_steps=2"), values, tmp_path / "recipe.yaml")
    runs = [train(form, folder=tmp_path / str(i), quiet=True) for i, form in enumerate(forms)]
    for run in runs[1:]:
        assert facts_of(run) == facts_of(runs[0])
        assert_equal_tensors(run.folder / "best", runs[0].folder / "best")


def test_a_run_starts_from_another(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(toy_folder, "training.max_steps=1")
    source = train(recipe, folder=str(tmp_path / "a"), quiet=True)
    assert train(recipe, folder=tmp_path / "b", warm_start=str(source.folder), quiet=True).warm_start == source.folder


def test_a_mistake_in_values_names_the_recipe(toy_folder: Path) -> None:
    with pytest.raises(UnimixerError, match=r"^recipe: unknown key 'trainin'; did you mean 'training'\?"):
        train({**tiny_values(toy_folder), "trainin": {}})


def test_without_a_folder_runs_are_made_below_runs(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(tiny_recipe(toy_folder, "training.max_steps=1"), quiet=True)
    assert run.folder.parent == Path("runs/tiny")
    assert run.folder.name.endswith("-seed0")


def test_a_run_predicts_and_measures_as_the_functions_do(toy_run: RunFolder) -> None:
    run = Run.load(toy_run.folder)
    rows = toy_frames()[0].filter(pl.col("time_ms") >= START + 8 * DAY)
    scores = run.predict(rows)
    assert scores.columns == ["is_click", "long_view"]
    assert scores.equals(predict(toy_run.folder, rows))
    reported = (toy_run.result or {})["test"]
    assert as_json(run.evaluate()) == as_json(evaluate(run, "test")) == reported
    by_rows = as_json(run.evaluate(rows=rows))
    assert by_rows["is_click"] == pytest.approx(reported["is_click"], abs=1e-6)
    assert run.evaluate("test", metrics=["ndcg@5"])["is_click"].value("ndcg@5") <= 1
    assert run.predictor.coverage.rows == 2 * rows.height


def test_a_run_loads_its_weights_once_and_for_one_device(toy_run: RunFolder) -> None:
    run = Run.load(str(toy_run.folder), device="cpu")
    assert run.model is run.model
    assert Run.load(run) is run
    assert Run.load(run, device="cpu") is run
    assert Run.load(run, device="cuda:0") is not run


def test_an_export_takes_the_options_of_a_bundle_and_no_others(toy_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UnimixerError, match=r"bundle exists"):
        export(toy_run.folder, tmp_path / "bundle", format="pt2")
    with pytest.raises(UnimixerError, match="precision='int8' is for format 'onnx' alone"):
        export(toy_run.folder, tmp_path / "other", format="pt2", precision="int8")
    with pytest.raises(UnimixerError, match=r"unknown option of export 'formt'; did you mean 'format'\?"):
        Run.load(toy_run.folder).export(tmp_path / "other", formt="pt2")


def test_rows_or_a_split_are_measured_and_a_folder_must_be_a_run(toy_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="rows are measured instead of a split of a dataset"):
        evaluate(toy_run.folder, "test", rows=toy_frames()[0])
    with pytest.raises(UnimixerError, match="is not a run"):
        Run.load(tmp_path)
