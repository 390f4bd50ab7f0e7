"""``unimixer predict``: scores in the order of the rows, and what it says about the rows."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from toy import toy_frames

from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_scores_of_unknown_items_are_not_without_a_word(cli: Cli, toy_run: RunFolder) -> None:
    strange = LOG.tail(300).with_columns(pl.concat_str(pl.lit("x"), "item_id").alias("item_id"), tab=pl.lit("home"))
    strange.write_parquet("strange.parquet")
    usual = toy_run.environment["data"]["coverage"]["unknown"]["item_id"]
    said = f"warning: item_id: 100% of 300 rows unknown ({usual:.1%} in validation); are they written as in training?"
    predicted = cli("predict", toy_run.folder, "--input", "strange.parquet", "--output", "s.parquet", "--json")
    evaluated = cli("evaluate", toy_run.folder, "--input", "strange.parquet", "--json")
    for done in (predicted, evaluated):
        assert said in done.err.splitlines()
        assert "warning: price: missing in 100% of 300 rows" in done.err
        assert (done.json["unknown"]["item_id"], done.json["missing"]["price"]) == (1.0, 1.0)
        assert done.json["unknown"]["tab"] == 0.0
    assert "unknown values: " in cli("evaluate", toy_run.folder, "--input", "strange.parquet").out
    LOG.tail(300).write_parquet("usual.parquet")
    assert "warning" not in cli("predict", toy_run.folder, "--input", "usual.parquet", "--output", "u.csv").err


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_writes_scores_in_the_order_of_the_rows(
    ending: str, cli: Cli, toy_run: RunFolder, rows: Path, tmp_path: Path
) -> None:
    arguments = ("predict", toy_run.folder, "--input", rows, "--output", f"s.{ending}", "--keep", "user_id")
    assert f"s.{ending}: 50 rows in" in cli(*arguments, "--keep", "item_id").out
    found = pl.read_parquet("s.parquet") if ending == "parquet" else pl.read_csv("s.csv")
    assert found.columns == ["user_id", "item_id", "is_click", "long_view"]
    assert found["user_id"].to_list() == LOG.tail(50)["user_id"].to_list()
    assert f"s.{ending} exists; choose another --output, or pass --overwrite" in cli(*arguments).error
    values = cli(*arguments, "--overwrite", "--json").json
    assert (values["rows"], values["tasks"]) == (50, ["is_click", "long_view"])


def test_predict_that_fails_leaves_no_file(cli: Cli, toy_run: RunFolder, rows: Path, tmp_path: Path) -> None:
    pl.read_parquet(rows).drop("item_id").write_parquet(tmp_path / "short.parquet")
    before = sorted(path.name for path in tmp_path.iterdir())
    error = cli("predict", toy_run.folder, "--input", "short.parquet", "--output", "s.csv").error
    assert error.startswith("short.parquet: missing column 'item_id'")
    arguments = ("predict", toy_run.folder, "--output", "s.csv", "--input")
    assert "no such file" in cli(*arguments, "none.csv").error
    assert "take its name; pass --suffix _score" in cli(*arguments, rows, "--keep", "is_click").error
    assert "device 'cuda:99'" in cli(*arguments, rows, "--device", "cuda:99").error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_predict_never_writes_over_its_rows_or_its_run(
    cli: Cli, toy_run: RunFolder, rows: Path, tmp_path: Path
) -> None:
    day = tmp_path / "day"
    day.mkdir()
    (day / "rows.parquet").write_bytes(rows.read_bytes())
    arguments = ("predict", toy_run.folder, "--overwrite", "--output", "day/rows.parquet", "--input")
    assert "day/rows.parquet is what the result is made from" in cli(*arguments, "day/rows.parquet").error
    assert "day/rows.parquet lies in day, which is what the result is made from" in cli(*arguments, "day").error
    assert (day / "rows.parquet").read_bytes() == rows.read_bytes()


def test_predict_reads_a_folder_of_partitions_in_its_order(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    for day in range(12):
        (tmp_path / "new" / f"day={day}").mkdir(parents=True)
        LOG.slice(10 * day, 10).write_parquet(tmp_path / "new" / f"day={day}" / "part-0.parquet")
    arguments = ("predict", toy_run.folder, "--overwrite", "--output", "s.parquet", "--input")
    assert cli(*arguments, "new", "--keep", "day", "--keep", "user_id", "--json").json["rows"] == 120
    found = pl.read_parquet("s.parquet")
    assert found["day"].to_list() == [str(row // 10) for row in range(120)]
    assert found["user_id"].to_list() == LOG.head(120)["user_id"].to_list()
    assert cli(*arguments, "new/day=3", "--keep", "day", "--json").json["rows"] == 10
    assert pl.read_parquet("s.parquet")["day"].unique().to_list() == ["3"]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_gives_no_rows_no_scores_in_the_right_columns(
    ending: str, cli: Cli, toy_run: RunFolder, tmp_path: Path
) -> None:
    empty = LOG.head(0)
    empty.write_parquet(tmp_path / "new.parquet") if ending == "parquet" else empty.write_csv(tmp_path / "new.csv")
    command = ("predict", toy_run.folder, "--input", f"new.{ending}", "--output", "s.parquet", "--keep", "user_id")
    assert cli(*command, "--json").json["rows"] == 0
    kept = empty.schema["user_id"] if ending == "parquet" else pl.String
    assert pl.read_parquet("s.parquet").schema == {"user_id": kept, "is_click": pl.Float32, "long_view": pl.Float32}
    assert "no rows, expected at least one" in cli("evaluate", toy_run.folder, "--input", f"new.{ending}").error


def test_predict_and_evaluate_take_a_separator(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    LOG.tail(50).write_csv(tmp_path / "comma.csv")
    LOG.tail(50).write_csv(tmp_path / "semicolon.csv", separator=";")
    predict = ("predict", toy_run.folder, "--overwrite", "--output", "s.parquet", "--input")
    cli(*predict, "comma.csv")
    expected = pl.read_parquet("s.parquet")
    assert "the first line holds ';'" in cli(*predict, "semicolon.csv").error
    cli(*predict, "semicolon.csv", "--separator", ";")
    assert pl.read_parquet("s.parquet").equals(expected)
    evaluate = ("evaluate", toy_run.folder, "--json", "--input")
    separated = cli(*evaluate, "semicolon.csv", "--separator", ";").json["tasks"]
    assert separated == cli(*evaluate, "comma.csv").json["tasks"]


def test_predict_reads_only_what_it_needs(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    odd = pa.array([Decimal(1)] * 50, pa.decimal256(60, 2))
    table = LOG.tail(50).drop("is_click").to_arrow().append_column("is_click", odd).append_column("odd", odd)
    parquet.write_table(table, tmp_path / "new.parquet")
    predict = ("predict", toy_run.folder, "--input", "new.parquet", "--output", "s.parquet", "--json")
    assert cli(*predict).json["rows"] == 50
    assert "new.parquet: column 'odd' of type decimal256" in cli(*predict, "--overwrite", "--keep", "odd").error
