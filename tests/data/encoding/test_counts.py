"""Counts of earlier impressions: what a loop finds, over chunks, workers and appended days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import day_tables, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.counts import add_counts, earlier
from unimixer.data.encoding.rows import Rows
from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import SPLITS, Count, Feature, Schema
from unimixer.errors import UnimixerError
from unimixer.settings import parse

COUNTS = (
    Count(name="seen", by=("user_id",)),
    Count(name="clicked_in_tab", by=("user_id", "tab"), event="is_click"),
    Count(name="long_in_tab", by=("tab",), event="long_view"),
)


def counting(*counts: Count, **changes: Any) -> dict[str, Any]:
    """The counts, and the features of the small world with one more for each of them."""
    chosen = counts or COUNTS
    new = tuple(Feature(name=count.name, kind="numeric", domain="context") for count in chosen)
    return {"counts": chosen, "features": (*toy_schema().features, *new), **changes}


def looped(log: pl.DataFrame, by: tuple[str, ...], event: np.ndarray[Any, Any]) -> list[int]:
    rows = list(log.select(*by, "time_ms").iter_rows())
    return [
        0
        if None in row[:-1] or "" in row[:-1]
        else sum(bool(event[j]) for j, other in enumerate(rows) if other[:-1] == row[:-1] and other[-1] < row[-1])
        for row in rows
    ]


@given(st.lists(st.tuples(st.integers(2, 4), st.integers(0, 6), st.booleans()), max_size=30))
def test_a_count_is_what_a_loop_over_all_impressions_finds(rows: list[tuple[int, int, bool]]) -> None:
    groups, times, counted = (
        np.array([row[i] for row in rows], dtype=kind) for i, kind in enumerate((np.int32, np.int64, np.bool_))
    )
    before = np.array([0, 0, 7, 0, 1])
    expected = [before[g] + sum(c for h, s, c in rows if h == g and s < t) for g, t, _ in rows]
    assert earlier(groups, times, counted, before).tolist() == expected


@pytest.mark.parametrize("chunk_rows", [1_000_000, 37])
def test_the_columns_of_a_log_hold_the_counts(chunk_rows: int) -> None:
    log, _, _ = toy_frames(400)
    tables, _ = add_counts(toy_tables(400, chunk_rows=chunk_rows, **counting()))
    frame = pl.concat([chunk.frame for chunk in tables.impressions()])
    clicks, long = log["is_click"].to_numpy(), (log["watch_s"] >= 10).to_numpy()
    assert frame["seen"].to_list() == looped(log, ("user_id",), np.ones(400))
    assert frame["clicked_in_tab"].to_list() == looped(log, ("user_id", "tab"), clicks)
    assert frame["long_in_tab"].to_list() == looped(log, ("tab",), long)
    assert max(frame["clicked_in_tab"]) > 1
    assert frame.drop("seen", "clicked_in_tab", "long_in_tab").equals(log)


def numbers(dataset: Dataset) -> list[list[float]]:
    """The dense numbers of all rows, in the order of the log."""
    rows = Rows.concatenate([part for split in SPLITS for part in dataset.parts(split)])
    return rows.take(np.argsort(rows.times, kind="stable")).dense.tolist()


def test_appended_days_count_on(tmp_path: Path) -> None:
    whole = prepare(day_tables(*range(6), **counting()), tmp_path / "whole")
    grown = prepare(day_tables(*range(4), **counting()), tmp_path / "grown")
    for day in (4, 5):
        grown = extend(grown.folder, day_tables(day, **counting()))
    column = grown.transform.spec.dense[-3:]
    assert [field.name for field in column] == ["seen", "clicked_in_tab", "long_in_tab"]
    assert [row[-3:] for row in numbers(grown)] == [row[-3:] for row in numbers(whole)]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    tables = toy_tables(400, chunk_rows=90, **counting())
    one, two = prepare(tables, tmp_path / "one"), prepare(tables, tmp_path / "two", workers=2)
    assert one.hash == two.hash


def test_rows_to_predict_bring_their_counts(tmp_path: Path) -> None:
    dataset = prepare(toy_tables(400, **counting()), tmp_path / "toy")
    log, _, _ = toy_frames(400)
    row = log.head(1).drop("is_click", "watch_s")
    batch = dataset.transform.raw_batch(Chunk(row.with_columns(seen=4, clicked_in_tab=2, long_in_tab=1), "rows"))
    assert batch.dense_features[0, -3:].tolist() == [4, 2, 1]
    with pytest.raises(UnimixerError, match="rows: missing column .seen."):
        dataset.transform.raw_batch(Chunk(row, "rows"))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([{"name": "seen", "by": []}], "counts.0.by"),
        ([{"name": "seen", "by": ["user_id"]}, {"name": "seen", "by": ["tab"]}], "count 'seen' is declared twice"),
        ([{"name": "unread", "by": ["user_id"]}], "count 'unread' is read by no feature"),
        ([{"name": "seen", "by": ["user_id"]}, {"name": "tab", "by": ["seen"]}], "reads another count"),
    ],
)
def test_a_wrong_count_is_refused(counts: list[dict[str, Any]], message: str) -> None:
    values = {**toy_schema(**counting(COUNTS[0])).model_dump(mode="json", exclude_none=True), "counts": counts}
    with pytest.raises(UnimixerError, match=message):
        parse(Schema, values, where="schema.yaml")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (Count(name="position", by=("user_id",)), "log.csv: count 'position' has the name of a column of the log"),
        (Count(name="seen", by=("usr",)), "log.csv: missing column .usr."),
        (Count(name="seen", by=("user_id",), event="watch_s"), "event of count 'seen'"),
    ],
)
def test_a_count_that_does_not_fit_its_log_is_refused(count: Count, message: str, tmp_path: Path) -> None:
    schema = toy_schema(**counting(count)) if count.name != "position" else toy_schema(counts=(count,))
    with pytest.raises(UnimixerError, match=message):
        prepare(tables_of(schema, *toy_frames(400)), tmp_path / "toy")
    assert not (tmp_path / "toy").exists()
