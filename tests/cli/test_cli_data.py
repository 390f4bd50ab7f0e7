"""``unimixer data``: prepare, describe and init."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from toy import toy_frames

from unimixer.data.dataset import Dataset

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_data_prepare_says_what_it_wrote(cli: Cli, raw_folder: Path) -> None:
    arguments = ("data", "prepare", raw_folder / "schema.yaml", "--raw", raw_folder)
    first = cli(*arguments, "--out", "here", "--json").json
    assert first["hash"] == Dataset("here").hash
    assert "here exists" in cli(*arguments, "--out", "here").error
    assert "rows in" in cli(*arguments, "--out", "here", "--overwrite").out
    assert cli(*arguments, "--json").json["dataset"] == "datasets/toy"


def test_data_describe_shows_fields_and_splits(cli: Cli, toy_dataset: Dataset) -> None:
    facts = cli("data", "describe", toy_dataset.folder, "--json").json
    assert facts["hash"] == toy_dataset.hash
    shown = cli("data", "describe", toy_dataset.folder).out
    assert all(field["field"] in shown for field in facts["fields"])
    assert "best AUC" not in shown


def test_data_describe_shows_the_best_auc_of_a_simulated_world(cli: Cli) -> None:
    assert cli("data", "prepare", "synthetic", "rows=2000", "users=50", "items=50", "--out", "w").code == 0
    shown = cli("data", "describe", "w").out
    assert "best AUC click" in shown
    assert "best AUC like" in shown


def test_data_init_writes_a_schema_that_prepares(cli: Cli, raw_folder: Path, tmp_path: Path) -> None:
    log = raw_folder / "impressions.parquet"
    printed = cli("data", "init", "--from", log)
    assert yaml.safe_load(printed.out)["features"]
    assert "read it, then: unimixer data prepare s.yaml" in cli("data", "init", "--from", log, "--out", "s.yaml").out
    assert (tmp_path / "s.yaml").read_text() == printed.out.removesuffix("\n")
    assert "s.yaml exists; choose another --out" in cli("data", "init", "--from", log, "--out", "s.yaml").error
    values = cli("data", "init", "--from", log, "--json").json
    assert yaml.safe_load(values["schema"]) == yaml.safe_load(printed.out)
