"""``unimixer tune``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from inline import use_inline
from tiny import tiny_values

from unimixer.experiments.results import read_rows
from unimixer.training.config import load_recipe

Cli = Callable[..., Any]


@pytest.fixture
def asked(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The words of a search whose runs have four steps, in this process."""
    use_inline(monkeypatch)
    values = tiny_values(toy_folder, "training.max_steps=4", "training.eval_interval=4", "training.seed=4")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "space.yaml").write_text("optimizer.dense_lr: {log: [1e-2, 1e-1]}\n")
    return ("tune", "recipe.yaml", "--space", "space.yaml", "--jobs", "1", "--out", "found")


def test_a_dry_run_shows_the_space_and_leaves_nothing(cli: Cli, asked: tuple[str, ...], tmp_path: Path) -> None:
    done = cli(*asked, "--trials", 7, "--dry-run")
    assert done.out.splitlines() == [
        "optimizer.dense_lr:",
        "  log: [0.01, 0.1]",
        "7 trials by is_click.auc on validation, 0 of them begun",
    ]
    own = cli("tune", "recipe.yaml", "--out", "found", "--dry-run", "--json").json["space"]
    assert own["optimizer.embedding_lr"] == {"log": [1e-4, 1e-1]}
    assert not (tmp_path / "found").exists()


def test_a_search_its_confirmation_and_its_continuation(cli: Cli, asked: tuple[str, ...], tmp_path: Path) -> None:
    found = cli(*asked, "--trials", 3, "--json").json
    assert found["trials"] == {"finished": 3}
    assert found["confirmation"] == []
    best = found["best"]
    assert best["trial"] in (1, 2)  # four steps at a higher rate learn more
    assert load_recipe(tmp_path / found["best_recipe"]).optimizer.dense_lr == best["settings"]["optimizer.dense_lr"]

    done = cli("tune", "found", "--confirm", 2, "--jobs", 1)
    assert done.code == 0, done.err
    assert "Mean and spread on test over seeds 5, 6, which no trial had." in done.out
    rows = read_rows(tmp_path / "found" / "confirm")
    assert sorted((row["variant"], row["seed"]) for row in rows) == [
        *(("recipe as it is", 5), ("recipe as it is", 6)),
        *((f"trial {best['trial']}", 5), (f"trial {best['trial']}", 6)),
    ]
    again = cli(*asked, "--trials", 3, "--confirm", 2, "--json").json
    assert len(read_rows(tmp_path / "found" / "confirm")) == 4
    as_it_is, tuned = again["confirmation"]
    assert as_it_is["metric"] == "is_click.auc"
    for line in (as_it_is, tuned):
        own = {str(row["seed"]): row["test_is_click_auc"] for row in rows if row["variant"] == line["model"]}
        assert line["by_seed"] == own
    difference = tuned["difference"]
    assert difference["low"] < difference["estimate"] < difference["high"]
    assert difference["estimate"] == pytest.approx(tuned["mean"] - as_it_is["mean"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tune",), "a recipe is missing; give its file, or the folder of a search that was begun"),
        (("tune", "recipe.yaml"), "a search needs a folder: give --out FOLDER, or the folder of one that was begun"),
        (("tune", "recipe.yaml", "--out", "o"), "--trials is missing; give the number of trials"),
        (("tune", "none.yaml", "--out", "o", "--trials", "1"), "none.yaml: no such file"),
        (
            ("tune", "recipe.yaml", "--out", "o", "--trials", "1", "--set", "training.monitor=is_click.acu"),
            "unknown training.monitor 'is_click.acu'; did you mean 'is_click.auc'?",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    cli: Cli, asked: tuple[str, ...], words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert message in cli(*words).error
    assert not (tmp_path / "o").exists()


def test_a_folder_goes_on_with_its_own_plan(cli: Cli, asked: tuple[str, ...]) -> None:
    cli(*asked, "--trials", 1)
    refused = cli("tune", "found", "--trials", 2, "--set", "training.max_steps=2")
    assert refused.error.startswith("found goes on with its own plan; leave out --set")


def test_a_search_without_a_finished_trial_says_why(cli: Cli, asked: tuple[str, ...]) -> None:
    done = cli(*asked, "--trials", 1, "--set", "optimizer.dense_lr=1e30", "--set", "training.max_steps=2")
    assert done.last_error.startswith("no trial has finished; the first one: ")
    assert "lower the learning rate" in done.last_error


def test_help_is_there_without_optuna(cli: Cli, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "--confirm" in cli("tune", "--help").out
    assert "pip install 'unimixer[tune]'" in cli(*asked, "--trials", 1).error
