"""Inferred schemas of columns of every type and form: times, ids of many digits, lists, odd names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from test_infer import inferred, prepared, shop

from unimixer.data.raw.infer import infer_schema


def with_column(path: Path, values: Any, name: str = "x", rows: int = 200) -> Path:
    """A log with one more column, as Parquet or CSV."""
    table = shop(rows).drop("event_time" if name == "event_time" else "channel").to_arrow().append_column(name, values)
    if path.suffix == ".csv":
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame.write_csv(path)
    else:
        parquet.write_table(table, path)
    return path


def minutes(form: str) -> Callable[[int], str]:
    return lambda i: f"{datetime(2023, 11, 14, 22, 5) + timedelta(minutes=97 * i):{form}}"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (minutes("%Y%m%d"), "%Y%m%d"),
        (minutes("%Y%m%d%H"), "%Y%m%d%H"),
        (minutes("%Y%m%d%H%M"), "%Y%m%d%H%M"),
        (minutes("%Y%m%d%H%M%S"), "%Y%m%d%H%M%S"),
        (minutes("%y%m%d%H"), "%y%m%d%H"),
        (lambda i: str(1_700_000_000 + i), "s"),
        (lambda i: f"{1_700_000_000 + i}.123", "s"),
        (lambda i: f"{1_700_000_000 + i}000", "ms"),
        (lambda i: f"{1_700_000_000 + i}000000", "us"),
        (lambda i: f"{1_700_000_000 + i}000000000", "ns"),
        (minutes("%Y-%m-%dT%H:%M:%SZ"), "iso"),
        (minutes("%Y-%m-%dT%H:%M:%S+05:30"), "iso"),
        (minutes("%Y-%m-%dT%H:%M:%S"), "iso"),
        (lambda i: minutes("%Y-%m-%d %H:%M:%S")(i) + (".5" if i % 2 else ""), "iso"),
        (minutes("%Y-%m-%d %H:%M:%S"), "%Y-%m-%d %H:%M:%S"),
        (minutes("%d/%m/%Y %H:%M"), "%d/%m/%Y %H:%M"),
        (minutes("%m/%d/%Y %I:%M:%S %p"), "%m/%d/%Y %I:%M:%S %p"),
    ],
)
def test_the_form_of_the_time_is_found_and_the_time_is_no_feature(
    tmp_path: Path, value: Callable[[int], str], form: str
) -> None:
    file = with_column(tmp_path / "log.csv", pa.array([value(i) for i in range(200)]), "event_time")
    _, schema, features = inferred(file)
    assert (schema.keys.time, schema.keys.time_format) == ("event_time", form)
    assert "event_time" not in features


def test_a_form_that_is_not_the_only_one_is_said(tmp_path: Path) -> None:
    hours = pa.array([int(minutes("%Y%m%d%H")(i)) for i in range(200)])
    text, schema, _ = inferred(with_column(tmp_path / "a.parquet", hours, "event_time"))
    assert schema.keys.time_format == "%Y%m%d%H"
    assert "CHECK: s would fit too" in text
    days = pa.array([f"0{1 + i % 9}/0{1 + i % 5}/2023" for i in range(200)])
    text, schema, _ = inferred(with_column(tmp_path / "b.parquet", days, "event_time"))
    assert 'CHECK: "%m/%d/%Y" would fit too' in text


def test_a_time_of_no_known_form_is_no_feature_and_no_key_and_the_reason_is_said(tmp_path: Path) -> None:
    odd = pa.array([minutes("%b %d %Y %H:%M")(i) for i in range(200)])
    text, schema, features = inferred(with_column(tmp_path / "log.csv", odd, "event_time"))
    assert schema.keys.time is None
    assert "event_time" not in features
    assert "# time: COLUMN  # the name of 'event_time' fits, the values do not: no form of a time that is known" in text
    one = with_column(tmp_path / "one.csv", pa.array(["7"] * 200), "member")
    text = infer_schema(one)
    assert "  user: user_id" in text


@pytest.mark.parametrize("digits", [17, 18, 19, 20, 25])
def test_ids_of_many_digits_are_counted_one_by_one(tmp_path: Path, digits: int) -> None:
    ids = pa.array([str(9 * 10 ** (digits - 1) + i % 39) for i in range(200)])
    frame = shop(200).drop("user_id").to_arrow().append_column("user_id", ids)
    pl.DataFrame(frame).write_csv(tmp_path / "log.csv")
    text, schema, features = inferred(tmp_path / "log.csv")
    assert schema.keys.user == "user_id"
    assert "user: user_id  # 39 values" in text
    assert features["user_id"].kind == "categorical"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array(["a", "b"] * 100).dictionary_encode(), "categorical"),
        (pa.array(["1000", "20000"] * 100).dictionary_encode(), "categorical"),
        (pa.array([i % 50 for i in range(200)]).dictionary_encode(), "categorical"),
        (pa.array([Decimal(i) / 4 for i in range(200)], pa.decimal128(9, 2)), "numeric"),
        (pa.array([i % 3 / 4 for i in range(200)], pa.float32()), "numeric"),
        (pa.array([2**64 - 1 - i % 7 for i in range(200)], pa.uint64()), "categorical"),
        (pa.array(["True", "FALSE"] * 100), "categorical"),
        (pa.array([True, False] * 100), "categorical"),
        (pa.array(["a\0b", "c\x85\u2028d"] * 100), "categorical"),
        (pa.array([f"0{i % 70:03}" for i in range(200)]), "categorical"),
        (pa.array([str([1, i % 9, i % 5]) for i in range(200)]), "sequence"),
        (pa.array([["a", "b"][: i % 3] for i in range(200)]), "sequence"),
        (pa.array([[0.5, i / 7] for i in range(200)]), "embedding"),
        (pa.array([f"[{i % 3},{i % 3 + 5}]" for i in range(200)]), "categorical"),
        (pa.array([[{"a": 1}]] * 200), None),
        (pa.array([[[1, 2]]] * 200), None),
        (pa.array([{"a": i} for i in range(200)]), None),
        (pa.array([[("a", 1)]] * 200, pa.map_(pa.string(), pa.int64())), None),
        (pa.array([b"a", b"b"] * 100), None),
        (pa.array([Decimal(1)] * 200, pa.decimal256(60, 2)), None),
        (pa.nulls(200), None),
        (pa.array(["[0.5, 1.25, 3.5]", "[0.25, 1.5, 2.5]"] * 100), None),
    ],
)
def test_every_type_gets_a_kind_or_is_commented_out_and_the_schema_reads_the_log(
    tmp_path: Path, values: Any, kind: str | None
) -> None:
    file = with_column(tmp_path / "log.parquet", values)
    text, _, features = inferred(file)
    assert (features["x"].kind if "x" in features else None) == kind
    assert "x" in text
    assert [f.name for f in prepared(file).features] == list(features)


@pytest.mark.parametrize("name", ["it's", 'a "b"', "a: b", "#1", "two\nlines", "\x85\x7f", "😀", "{a}", "- x", "null"])
def test_any_name_of_a_column_gives_a_schema_that_loads(tmp_path: Path, name: str) -> None:
    file = with_column(tmp_path / "log.parquet", pa.array(["a", "b"] * 100), name)
    _, _, features = inferred(file)
    assert name in features
    prepared(file)
