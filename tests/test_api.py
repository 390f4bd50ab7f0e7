"""The main job as two calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny import RECIPE, assert_equal_tensors, facts_of, tiny_recipe, tiny_values

from unimixer import UnimixerError, prepare, train
from unimixer.data.dataset import Dataset


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
