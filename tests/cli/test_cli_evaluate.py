"""``unimixer evaluate``: splits, files, hardened mixings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toy import toy_frames, toy_tables

from unimixer.data.coverage import Coverage
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_evaluate_measures_a_split_and_a_file(cli: Cli, toy_run: RunFolder, rows: Path, toy_folder: Path) -> None:
    for split in ("validation", "test"):
        values = cli("evaluate", toy_run.folder, "--split", split, "--json").json
        shares = Coverage.of_split(Dataset(toy_folder), split).shares()
        assert values == {"run": str(toy_run.folder), "on": split, "tasks": (toy_run.result or {})[split], **shares}
    assert cli("evaluate", toy_run.folder, "--input", rows, "--json").json["tasks"]["is_click"]["num_rows"] == 50
    assert "is_click" in cli("evaluate", toy_run.folder, "--data", toy_folder).out
    assert "unknown split 'tset'" in cli("evaluate", toy_run.folder, "--split", "tset").error


def test_evaluate_refuses_other_data(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    prepare(toy_tables(seed=1), tmp_path / "other")
    assert "evaluate other data as raw rows, with --input" in cli("evaluate", toy_run.folder, "--data", "other").error


def test_evaluate_hardens_on_request(cli: Cli, toy_run: RunFolder) -> None:
    done = cli("evaluate", toy_run.folder, "--harden", "permutation", "--json")
    assert set(done.json["tasks"]) == {"test", "test, permutation"}
    assert "in the probability" in cli("evaluate", toy_run.folder, "--harden", "top-2").out
    assert "leave --input out" in cli("evaluate", toy_run.folder, "--harden", "top-2", "--input", "x.csv").error
