"""``unimixer runs``: mean and spread over seeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import toy_frames

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_runs_prints_mean_and_spread_over_seeds(cli: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [cli("train", recipe, f"training.seed={seed}", "--json").json for seed in (0, 1)]
    aucs = [run["test"]["is_click"]["auc"] for run in found]
    mean, deviation = sum(aucs) / 2, abs(aucs[0] - aucs[1]) / 2**0.5
    row = cli("runs", "--json").json["rows"][0]
    assert (row["recipe"], row["seeds"], row["test AUC"]) == ("tiny", 2, f"{mean:.4f} ± {deviation:.4f}")
    assert f"{mean:.4f} ± {deviation:.4f}" in cli("runs", "runs/tiny").out
    table = cli("runs", "--markdown").out.splitlines()
    assert table[0].startswith("| recipe | task | seeds |")
    assert table[1].startswith("| --- | --- | ---: |")
    assert len(table) == 4
    assert cli("runs", "--markdown", "--json").json["rows"][0] == row
    Path("none").mkdir()
    assert "note: no run below none is finished; runs are made by: unimixer train" in cli("runs", "none").err
    shutil.move("runs", "elsewhere")
    monkeypatch.setenv("UNIMIXER_RUNS", "elsewhere")
    assert cli("runs", "--json").json["rows"][0] == row
