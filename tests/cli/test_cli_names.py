"""Names of papers, the version, short help, and options that rename scores."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unimixer
from unimixer.backbones import BACKBONES
from unimixer.backbones.registry import backbone_name, build_backbone
from unimixer.experiments.models import Variant, label_of
from unimixer.training.config import ModelConfig
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").out == f"unimixer {version('unimixer')}\n"
    assert unimixer.__version__ == version("unimixer")


def test_help_has_a_short_option_everywhere(cli: Cli) -> None:
    for words in ((), ("train",), ("data", "describe")):
        assert cli(*words, "-h").out == cli(*words, "--help").out
    assert "--install-completion" in cli("-h").out


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_have_one_name_in_any_case(name: str) -> None:
    assert backbone_name(name.upper()) == backbone_name(name.replace("-", "_")) == name


def test_names_of_papers_are_read_wherever_a_backbone_is_named(cli: Cli) -> None:
    assert ModelConfig(backbone="UniMixing-Lite").backbone == "unimixer-lite"
    assert Variant(backbone="RankMixer").label == "rankmixer"
    assert label_of("RankMixer", [Variant(backbone="rankmixer")]) == "rankmixer"
    assert type(build_backbone("RankMixer", num_tokens=4, token_dim=16)) is BACKBONES["rankmixer"]
    assert cli("models", "UniMixing-Lite").out == cli("models", "unimixer-lite").out
    assert "did you mean 'rankmixer'" in cli("models", "RankMixr").error


def test_train_takes_a_device(cli: Cli, recipe: Path) -> None:
    done = cli("train", recipe, "--run", "run", "--device", "cpu", "--json")
    assert done.code == 0
    assert RunFolder("run").recipe.training.device == "cpu"
    assert "device 'tpu' is not known" in cli("train", recipe, "--device", "tpu").error


def test_a_suffix_lets_a_kept_column_have_the_name_of_a_task(cli: Cli, toy_run: RunFolder, rows: Path) -> None:
    words = ("predict", toy_run.folder, "--input", rows, "--keep", "is_click")
    assert cli(*words, "--output", "scores.parquet", "--suffix", "_teacher").code == 0
    frame = pl.read_parquet("scores.parquet")
    assert frame.columns == ["is_click", "is_click_teacher", "long_view_teacher"]
    assert frame["is_click"].to_list() == pl.read_parquet(rows)["is_click"].to_list()
    assert "cannot keep column 'is_click_x'" not in cli(*words, "--output", "b.parquet", "--suffix", "_x").err
