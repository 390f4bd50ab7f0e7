"""``unimixer config``: what it shows loads as the same recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from toy import toy_frames

from unimixer.settings import parse
from unimixer.training.config import Recipe, load_recipe
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_config_show_prints_what_loads_as_the_same_recipe(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("config", "show", recipe, "training.seed=7", "optimizer.dense_lr=1e-4")
    (tmp_path / "shown.yaml").write_text(done.out)
    expected = load_recipe(recipe, ["training.seed=7", "optimizer.dense_lr=1e-4"])
    assert load_recipe(tmp_path / "shown.yaml") == expected
    assert expected.optimizer.dense_lr == 1e-4
    assert yaml.safe_load(cli("config", "show", "shown.yaml").out) == yaml.safe_load(done.out)
    values = cli("config", "show", recipe, "training.seed=7", "optimizer.dense_lr=1e-4", "--json").json
    origins = values.pop("origins")
    assert parse(Recipe, values, where="json") == expected
    assert origins["training.seed"] == "override training.seed=7"
    assert origins["name"] == f"{recipe}, line 1"
    assert origins["training.epochs"] == "default"
    assert "  epochs: 1  # default\n" in done.out
    assert "  width: 8.0  # " in done.out
    assert "  seed: 7  # override training.seed=7\n" in done.out


def test_config_show_reads_a_run(cli: Cli, toy_run: RunFolder) -> None:
    assert yaml.safe_load(cli("config", "show", toy_run.folder).out) == toy_run.recipe.model_dump(mode="json")
