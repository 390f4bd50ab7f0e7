"""``unimixer models``: the table of all backbones, readable on a narrow terminal."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unimixer.backbones import BACKBONES, build_backbone, count_parameters
from unimixer.cli import models
from unimixer.profiling.flops import count_flops
from unimixer.profiling.model_table import overview

Cli = Callable[..., Any]


@pytest.fixture(autouse=True, scope="module")
def _counted_once() -> Iterator[None]:
    """Every call of the program would build all backbones anew and count their operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "overviews", functools.cache(models.overviews))
        yield


def test_the_table_says_patterns_and_costs_of_the_default_size(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("models", "--json").json["models"]}
    assert [name for name in rows if ":" not in name] == list(BACKBONES)
    rankmixer = build_backbone("rankmixer", num_tokens=16)
    row = rows["rankmixer"]
    assert (row["local_pattern"], row["global_pattern"]) == rankmixer.patterns() == ("identity", "fixed permutation")
    assert (row["parameters"], row["flops"]) == (count_parameters(rankmixer), count_flops(rankmixer))
    assert (row["family"], row["tokenizer"]) == ("mixer", "chunk")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal_and_folds_no_name_or_number(
    width: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cli("models").out)
    assert max(map(len, shown.splitlines())) <= width
    for name in ("unimixer-lite", "rankmixer", "mlp"):
        found = overview(name)
        assert f"│ {name} " in shown
        assert f" {found.parameters:,} │" in shown
        assert f" {found.flops:,} │" in shown


def test_every_mixing_of_the_token_mixer_has_a_line(cli: Cli) -> None:
    rows = [row for row in cli("models", "--json").json["models"] if row["name"].startswith("token-mixer")]
    assert {row["name"].removeprefix("token-mixer:mixing="): row["global_pattern"] for row in rows} == {
        "token-mixer": "fixed permutation",
        "none": "identity",
        "random-permutation": "fixed permutation, random",
        "balanced-permutation": "fixed permutation, random, balanced over tokens",
        "random-orthogonal": "fixed orthogonal matrix, random",
        "rule+fm": "fixed permutation + Gram matrix X X^T",
        "rule+attention": "fixed permutation + softmax attention, shared projections",
        "per-head": "learned, unconstrained, own for every head",
    }


def test_a_pipe_gets_one_line_a_model(cli: Cli) -> None:
    lines = [line for line in cli("models").out.splitlines() if line.startswith("│ rankmixer ")]
    assert len(lines) == 1
    assert "fixed permutation" in lines[0]
    assert "1,059,328" in lines[0]


def test_one_model_shows_its_patterns_and_options(cli: Cli) -> None:
    shown = cli("models", "unimixer").out
    assert "local pattern:  doubly stochastic, symmetric, own for every block" in shown
    assert "global pattern: learned, doubly stochastic, symmetric, full" in shown
    assert "with 16 tokens every budget from 39,616 parameters up is met within 2%" in shown
    values = cli("models", "unimixer", "--json").json
    assert values["any_budget_from"] == 39_616
    assert values["global_pattern"] == "learned, doubly stochastic, symmetric, full"
    assert values["options"]["temperature"] == 0.1


def test_models_lists_every_backbone(cli: Cli) -> None:
    names = [row["name"] for row in cli("models", "--json").json["models"]]
    assert [name for name in names if ":" not in name] == list(BACKBONES)
    assert all(name in cli("models").out for name in BACKBONES)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_models_shows_the_options_of_one(name: str, cli: Cli) -> None:
    assert cli("models", name, "--json").json["options"].keys() == BACKBONES[name].options().keys()
    assert f"options of {name}" in cli("models", name).out
