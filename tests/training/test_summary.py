"""The table of runs: what is averaged, what never is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.training.run import RunFolder
from unimixer.training.summary import finished_runs, spread, summarise_runs


def finished(dataset: Dataset, folder: Path, auc: float, *overrides: str, data: str | None = None) -> RunFolder:
    """A run whose test AUC is ``auc``."""
    run = RunFolder.create(folder, tiny_recipe(dataset.folder, *overrides), dataset)
    if data is not None:
        environment = run.environment
        environment["data"]["hash"] = data
        run.write_json("environment.json", environment)
    metrics = {"click": {"auc": auc, "uauc": None}}
    numbers: dict[str, Any] = {"dense_parameters": 1234, "samples_per_second": 1000.4}
    run.write_json("result.json", {**numbers, "validation": metrics, "test": metrics})
    return run


def test_the_spread_is_the_standard_deviation_of_a_sample() -> None:
    assert spread([0.5, 0.6, 0.7]) == "0.6000 ± 0.1000"
    assert spread([0.5]) == "0.5000"
    assert spread([]) == "-"


def test_seeds_of_one_recipe_are_one_row(toy_dataset: Dataset, tmp_path: Path) -> None:
    for seed, auc in enumerate((0.6, 0.7, 0.8)):
        finished(toy_dataset, tmp_path / str(seed), auc, f"training.seed={seed}", f"training.num_workers={seed}")
    (row,) = summarise_runs([tmp_path])
    assert row == {
        "recipe": "tiny",
        "task": "click",
        "seeds": 3,
        "dense parameters": "1,234",
        "samples/s": "1,000",
        "validation AUC": "0.7000 ± 0.1000",
        "validation UAUC": "-",
        "test AUC": "0.7000 ± 0.1000",
        "test UAUC": "-",
    }


def test_recipes_that_differ_are_rows_of_their_own_with_what_differs(toy_dataset: Dataset, tmp_path: Path) -> None:
    finished(toy_dataset, tmp_path / "a", 0.6, "training.seed=0")
    finished(toy_dataset, tmp_path / "b", 0.8, "training.seed=1", "optimizer.dense_lr=0.01")
    rows = {row["recipe"]: row["test AUC"] for row in summarise_runs([tmp_path])}
    assert rows == {"tiny optimizer.dense_lr=0.001": "0.6000", "tiny optimizer.dense_lr=0.01": "0.8000"}


def test_runs_on_other_data_are_never_averaged(toy_dataset: Dataset, tmp_path: Path) -> None:
    finished(toy_dataset, tmp_path / "a", 0.6, data="one")
    finished(toy_dataset, tmp_path / "b", 0.8, "training.seed=1", data="two")
    assert [row["recipe"] for row in summarise_runs([tmp_path])] == ["tiny data=one", "tiny data=two"]


def test_of_two_runs_of_one_seed_the_last_one_counts(toy_dataset: Dataset, tmp_path: Path) -> None:
    for name, auc, created in (("b", 0.8, "2026-01-01"), ("a", 0.6, "2026-01-02")):
        run = finished(toy_dataset, tmp_path / name, auc)
        run.write_json("environment.json", {**run.environment, "created": created})
    (row,) = summarise_runs([tmp_path])
    assert (row["seeds"], row["test AUC"]) == (1, "0.6000")


def test_unfinished_runs_and_first_stages_are_left_out(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = finished(toy_dataset, tmp_path / "run", 0.6)
    finished(toy_dataset, run.folder / "warm-up", 0.9)
    RunFolder.create(tmp_path / "unfinished", tiny_recipe(toy_dataset.folder), toy_dataset)
    assert [found.folder for found in finished_runs([tmp_path])] == [run.folder]


def test_a_run_named_twice_counts_once(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = finished(toy_dataset, tmp_path / "run", 0.6)
    assert len(finished_runs([tmp_path, run.folder, run.folder / ".." / "run"])) == 1


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="nothing: no such folder; runs are made by: unimixer train"):
        summarise_runs([tmp_path / "nothing"])
    assert summarise_runs([tmp_path]) == []


def test_rows_are_plain_values(toy_dataset: Dataset, tmp_path: Path) -> None:
    finished(toy_dataset, tmp_path / "run", 0.6)
    json.dumps(summarise_runs([tmp_path]))
