"""Several seeds in one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimixer.training.run import RunFolder

Cli = Callable[..., Any]


def test_seeds_trains_one_run_a_seed_and_shows_their_spread(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("train", recipe, "training.max_steps=2", "--seeds", "2", "--run", tmp_path / "several", "--json")
    runs = [RunFolder(tmp_path / "several" / f"seed{seed}") for seed in range(2)]
    assert [run.recipe.training.seed for run in runs] == [0, 1]
    assert {row["seeds"] for row in done.json["rows"]} == {2}
    assert all("±" in row["test AUC"] for row in done.json["rows"])


def test_a_resumed_run_takes_no_seeds(cli: Cli, toy_run: RunFolder) -> None:
    assert "--resume takes no recipe or overrides" in cli("train", "--resume", toy_run.folder, "--seeds", "2").error
