"""Logs and schemas that are odd: what cannot be right is refused, what can be is noted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from toy import DAY, SCHEMA, START, tables_of, toy_frames, toy_schema

from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("tab", pl.lit(None, dtype=pl.String)),
        ("tab", pl.when(pl.col("time_ms") >= START + 6 * DAY).then("tab")),
        ("words", pl.lit("")),
        ("position", pl.lit(None, dtype=pl.Int64)),
    ],
    ids=["a category", "a category after training", "lists", "buckets of a number"],
)
def test_a_feature_without_a_value_in_training_is_refused(tmp_path: Path, column: str, values: pl.Expr) -> None:
    log, users, items = toy_frames(400)
    tables = tables_of(toy_schema(), log.with_columns(values.alias(column)), users, items)
    with pytest.raises(UnimixerError, match=f"'{column}'.* in (any of the 2.. rows of )?the train(ing)? part"):
        prepare(tables, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("tab", [b"\xff"], "log.csv: column 'tab' of type Binary cannot be read as text (invalid utf8); convert the"),
        ("tab", [timedelta(1)], "log.csv: column 'tab' of type Duration(time_unit='us') cannot be read as text"),
        ("words", [[b"\xff"]], "log.csv: column 'words' of type Binary cannot be read as text"),
        ("user_id", [b"\xff"], "log.csv: column 'user_id' of type Binary cannot be read as text"),
    ],
)
def test_values_without_a_text_are_named(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    log, users, items = toy_frames(300)
    tables = tables_of(toy_schema(), log.with_columns(pl.Series(column, values * 300)), users, items)
    with pytest.raises(UnimixerError) as error:
        prepare(tables, tmp_path / "store")
    assert str(error.value).startswith(message)


def changed(name: str, **values: Any) -> dict[str, Any]:
    """Return the features of the small world with other values of one."""
    return {"features": [{**f, **values} if f["name"] == name else f for f in SCHEMA["features"]]}


LATE = int(datetime(2999, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("schema", "times", "expected"),
    [
        ({}, {}, []),
        ({}, {0: 0}, ["note: the first time of the log is 1970-01-01 08:00 (Asia/Shanghai), and the last 2022-05-"]),
        ({}, {399: LATE}, ["note: the last time of the log is 2999-01-01 08:00 (Asia/Shanghai), in the future: is it"]),
        (
            changed("words", separator=";"),
            {},
            ["note: feature 'words': separator ';' stands in no value of column 'words', so that every text is one"],
        ),
        (
            changed("tab", vocabulary={"min_count": 10_000}),
            {},
            ["note: feature 'tab': all its values in the train part are unknown, because none occurs often enough"],
        ),
        (
            changed("tab", separator="|", max_length=3, num_buckets=9),
            {},
            [
                "note: feature 'tab': separator='|' has no effect: it goes with a list column, kind: sequence",
                "note: feature 'tab': max_length=3 has no effect: it goes with a list column, kind: sequence",
                "note: feature 'tab': num_buckets=9 has no effect: it goes with transform: bucketise",
            ],
        ),
        (
            changed("clicked_items", max_length=3, vocabulary={"min_count": 2}),
            {},
            [
                "note: feature 'clicked_items': max_length=3 has no effect: set it at the history 'clicks'",
                "note: feature 'clicked_items': vocabulary has no effect: feature 'item_id' has the vocabulary of",
            ],
        ),
        (
            changed("picture", missing=["-1"], table="p"),
            {},
            [
                "note: feature 'picture': table='p' has no effect: it has no embedding table",
                "note: feature 'picture': missing=('-1',) has no effect: a vector is missing where the value is empty",
            ],
        ),
    ],
)
def test_what_is_odd_but_possible_is_noted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    schema: dict[str, Any],
    times: dict[int, int],
    expected: list[str],
) -> None:
    log, users, items = toy_frames(400)
    odd = log.with_columns(time_ms=pl.Series([times.get(row, time) for row, time in enumerate(log["time_ms"])]))
    prepare(tables_of(toy_schema(**schema), odd, users, items), tmp_path / "store")
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True)), notes


def test_a_separator_that_cuts_one_value_is_not_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, users, items = toy_frames(400)
    words = pl.when(pl.int_range(pl.len()) == 250).then(pl.lit("a;b")).otherwise("words").alias("words")
    tables = tables_of(toy_schema(**changed("words", separator=";")), log.with_columns(words), users, items)
    prepare(tables, tmp_path / "store")
    assert capsys.readouterr().err == ""


def test_an_empty_history_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, users, items = toy_frames(400)
    tables = tables_of(
        toy_schema(histories=[{"name": "clicks", "event": "liked"}]), log.with_columns(liked=0), users, items
    )
    train = prepare(tables, tmp_path / "store").summary("train").rows
    assert capsys.readouterr().err == f"note: history 'clicks' is empty in all {train} rows of the train part\n"
