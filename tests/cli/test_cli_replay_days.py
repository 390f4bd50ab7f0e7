"""A stream of days as typed: ``data extend``, ``train --continue`` and ``replay-days``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from tiny import tiny_values
from toy import QUANTILES, SCHEMA, day_tables

from unimixer.data.dataset import Dataset

Cli = Callable[..., Any]


def write_days(folder: Path, *days: int) -> Path:
    """Write raw logs as a user has them: a folder with impressions, users and items."""
    tables = day_tables(*days)
    folder.mkdir()
    pl.concat([chunk.frame for chunk in tables.impressions()]).write_parquet(folder / "impressions.parquet")
    for name, chunk in (("users", tables.users), ("items", tables.items)):
        assert chunk is not None
        chunk.frame.write_parquet(folder / f"{name}.parquet")
    return folder


def test_a_stream_of_days_from_logs_to_a_table(cli: Cli, tmp_path: Path) -> None:
    schema, recipe = tmp_path / "schema.yaml", tmp_path / "tiny.yaml"
    schema.write_text(yaml.safe_dump({**SCHEMA, "split": QUANTILES}), encoding="utf-8")
    values = {**tiny_values("data"), "tasks": {"is_click": 1.0}}
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    logs = {day: write_days(tmp_path / f"day{day}", day) for day in (6, 7)}
    assert cli("data", "prepare", schema, "--raw", write_days(tmp_path / "base", *range(6)), "--out", "data").code == 0
    assert cli("train", recipe, "--run", "first").code == 0

    schema.unlink()  # the dataset keeps its schema
    said = cli("data", "extend", "data", "--raw", logs[6]).out
    assert "data: 2022-05-07 appended" in said
    assert "new rows of tables: item_id 1, tab 1" in said
    twice = cli("data", "extend", "data", "--raw", logs[6]).error
    assert twice == (
        "data: the day 2022-05-07 is there already; its last day is 2022-05-07, so append rows of 2022-05-08 on"
    )
    assert cli("data", "extend", "data", "--raw", logs[7], "--hold-out", "2").error == (
        "hold_out=2.0 must be above 0 and at most 1"
    )
    facts = cli("data", "extend", "data", "--raw", logs[7], "--hold-out", "0.2", "--json").json
    assert (facts["first"], facts["last"], facts["hash"]) == ("2022-05-08", "2022-05-08", Dataset("data").hash)
    assert cli("data", "describe", "data", "--json").json["splits"][0]["rows"] == Dataset("data").summary("train").rows

    continued = cli("train", recipe, "--continue", "first", "--run", "second", "--json")
    assert continued.json["samples"] == Dataset("data").since(Dataset("data").days[0]["hash"]).summary("train").rows
    assert "continued after step" in continued.err
    assert cli("train", recipe, "--continue", "first", "--warm-start", "first").error.startswith("--continue begins")
    assert "no rows since content" in cli("train", recipe, "--continue", "second", "--run", "third").last_error
    for run in ("first", "second"):  # the first run was trained before days were appended
        measured = cli("evaluate", run, "--split", "test", "--json").json
        result = json.loads((Path(run) / "result.json").read_text())
        assert measured["tasks"]["is_click"]["auc"] == result["test"]["is_click"]["auc"]
    assert cli("predict", "second", "--input", logs[7] / "impressions.parquet", "--output", "scores.parquet").code == 0

    seeded = cli("replay-days", recipe, "--data", "data", "--out", "replay", "--set", "training.seed=1")
    assert seeded.error == "replay-days trains with the seeds 0, 1, ... of --seeds; take training.seed out of --set"
    alike = cli("replay-days", recipe, recipe, "--data", "data", "--out", "replay")
    assert alike.error == "two recipes have one name; give each its own 'name'"
    done = cli("replay-days", recipe, "--data", "data", "--out", "replay", "--set", "training.max_steps=2")
    assert done.code == 0, done.err
    assert "daily" in done.out
    page = Path("replay/days.md").read_text()
    assert "| 2022-05-08 | tiny | frozen | is_click |" in page
    assert "unknown model" in cli("replay-days", recipe, "--data", "data", "--out", "r", "--models", "weekly").error
