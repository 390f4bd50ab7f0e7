"""``unimixer train``: results, datasets, resumed runs, warm starts, several seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import toy_frames

from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_train_prints_its_result_for_people_and_for_programs(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    people = cli("train", recipe, "--run", "a")
    assert people.code == 0
    assert "is_click" in people.out
    assert "dense and" in people.out
    assert "validation" in people.err
    program = cli("train", recipe, "--run", "b", "--json").json
    assert program["run"] == "b"
    assert program == {"run": "b", **json.loads((tmp_path / "b" / "result.json").read_text())}


def test_train_takes_the_dataset_from_the_command_line(cli: Cli, recipe: Path, toy_folder: Path) -> None:
    recipe.write_text(recipe.read_text().replace(str(toy_folder), "nowhere"))
    assert cli("train", recipe, "--data", toy_folder, "--run", "a", "--json").json["steps"] == 1
    twice = cli("train", recipe, "dataset=other", "--data", toy_folder, "--run", "b").error
    assert twice == f"--data {toy_folder}: override dataset=other sets dataset too; give one of them"


def test_train_finds_a_dataset_by_its_name(
    cli: Cli, recipe: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMIXER_DATASETS", str(toy_folder.parent))
    assert cli("train", recipe, "--data", toy_folder.name, "--run", "a").code == 0
    assert RunFolder("a").recipe.dataset == str(toy_folder.resolve())


def test_an_existing_run_is_refused_and_a_finished_one_resumes_at_once(cli: Cli, recipe: Path) -> None:
    first = cli("train", recipe, "--run", "a", "--json").json
    assert cli("train", recipe, "--run", "a").error.endswith("continue it with: unimixer train --resume a")
    resumed = cli("train", "--resume", "a", "--json")
    assert resumed.json == first
    assert "note: a is finished, so nothing is left to train" in resumed.err


def test_resume_takes_no_changes(cli: Cli, recipe: Path) -> None:
    for given in (recipe, "training.seed=1"):
        assert cli("train", given, "--resume", "a").error == (
            "a run continues with the recipe it began with: --resume takes no recipe or overrides "
            f"(given: {given}), no --run, --warm-start, --continue, --seeds or --device"
        )
    assert "--resume takes no recipe or overrides, no --run" in cli("train", "--resume", "a", "--run", "b").error


def test_a_seed_that_is_given_twice_is_refused(cli: Cli, recipe: Path) -> None:
    found = cli("train", recipe, "training.seed=3", "--seeds", 2).error
    assert found == "--seeds 2: override training.seed=3 sets training.seed too; give one of them"


def test_a_warm_start_is_written_down(cli: Cli, recipe: Path, toy_run: RunFolder) -> None:
    assert cli("train", recipe, "--run", "a", "--warm-start", toy_run.folder).code == 0
    assert RunFolder("a").warm_start == toy_run.folder.resolve()
    assert "another model" in cli("train", recipe, "model.width=12", "--warm-start", toy_run.folder).error


def test_seeds_trains_one_run_a_seed_and_shows_their_spread(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("train", recipe, "training.max_steps=2", "--seeds", "2", "--run", tmp_path / "several", "--json")
    runs = [RunFolder(tmp_path / "several" / f"seed{seed}") for seed in range(2)]
    assert [run.recipe.training.seed for run in runs] == [0, 1]
    assert {row["seeds"] for row in done.json["rows"]} == {2}
    assert all("±" in row["test AUC"] for row in done.json["rows"])


def test_a_resumed_run_takes_no_seeds(cli: Cli, toy_run: RunFolder) -> None:
    assert "--resume takes no recipe or overrides" in cli("train", "--resume", toy_run.folder, "--seeds", "2").error
