"""Counts of earlier impressions: what a loop finds, over chunks, workers and appended days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import COUNTS, DAY, START, counting, day_tables, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.count_settings import Count
from unimixer.data.dataset import Dataset
from unimixer.data.encoding.counts import add_counts, earlier
from unimixer.data.encoding.later_counts import SortedKeys
from unimixer.data.encoding.rows import Rows
from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import SPLITS, Schema
from unimixer.errors import UnimixerError
from unimixer.settings import parse


def looped(log: pl.DataFrame, by: tuple[str, ...], event: np.ndarray[Any, Any], unit: int = 1) -> list[int]:
    """The numbers by a loop over all pairs of impressions; times are cut to whole units."""
    rows = [(tuple(values), time // unit) for *values, time in log.select(*by, pl.col("time_ms") - START).iter_rows()]
    numbers = []
    for key, time in rows:
        missing = any(value in (None, "") for value in key)
        earlier = (bool(event[j]) for j, (other, when) in enumerate(rows) if other == key and when < time)
        numbers.append(0 if missing else sum(earlier))
    return numbers


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
    log, _, items = toy_frames(400)
    times = log["time_ms"].to_numpy()
    tables, _ = add_counts(toy_tables(400, chunk_rows=chunk_rows, **counting()))
    frame = pl.concat([chunk.frame for chunk in tables.impressions()])
    clicks, long, all_ = log["is_click"].to_numpy(), (log["watch_s"] >= 10).to_numpy(), np.ones(400)
    assert frame["seen"].to_list() == looped(log, ("user_id",), all_)
    assert frame["clicked_in_tab"].to_list() == looped(log, ("user_id", "tab"), clicks)
    assert frame["long_in_tab"].to_list() == looped(log, ("tab",), long, unit=DAY)
    assert max(frame["clicked_in_tab"]) > 1
    assert frame.drop("seen", "clicked_in_tab", "long_in_tab", "click_rate").equals(log)
    with_items = log.join(items, on="item_id", how="left", maintain_order="left")
    clicked, seen = (np.array(looped(with_items, ("category", "tab"), event)) for event in (clicks, all_))
    known = (log["tab"] != "").to_numpy()
    past = [clicks[known & (times < t)] if named else np.zeros(0) for t, named in zip(times, known, strict=True)]
    mean = np.array([rows.mean() if len(rows) else 0 for rows in past])
    assert frame["click_rate"].to_numpy() == pytest.approx((clicked + 2 * mean) / (seen + 2), abs=1e-6)


def test_sorted_keys_find_what_a_loop_finds() -> None:
    known = ["b", "", "ä", "a", "B", "ab", "a" * 20, "\U0001f600", "zz", "\uffff", "a\0"]
    asked = [None, *known[::-1], "aa", "zzz", "c", " ", "a" * 19, None]
    places = SortedKeys(pl.Series(known)).find(pl.Series(asked))
    assert places.tolist() == [known.index(key) if key in known else -1 for key in asked]
    nothing = SortedKeys(pl.Series([], dtype=pl.String))
    assert nothing.find(pl.Series(["a", None])).tolist() == [-1, -1]


def numbers(dataset: Dataset) -> list[list[float]]:
    """The dense numbers of all rows, in the order of the log."""
    rows = Rows.concatenate([part for split in SPLITS for part in dataset.parts(split)])
    return rows.take(np.argsort(rows.times, kind="stable")).dense.tolist()


def test_appended_days_count_on(tmp_path: Path) -> None:
    whole = prepare(day_tables(*range(6), **counting()), tmp_path / "whole")
    grown = prepare(day_tables(*range(4), **counting()), tmp_path / "grown")
    for day in (4, 5):
        grown = extend(grown.folder, day_tables(day, **counting()))
    assert [field.name for field in grown.transform.spec.dense[-4:]] == [count.name for count in COUNTS]
    assert [row[-4:] for row in numbers(grown)] == [row[-4:] for row in numbers(whole)]


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    tables = toy_tables(400, chunk_rows=90, **counting())
    one, two = prepare(tables, tmp_path / "one"), prepare(tables, tmp_path / "two", workers=2)
    assert one.hash == two.hash


def test_rows_to_predict_bring_their_counts(tmp_path: Path) -> None:
    dataset = prepare(toy_tables(400, **counting()), tmp_path / "toy")
    log, _, _ = toy_frames(400)
    row = log.head(1).drop("is_click", "watch_s")
    brought = row.with_columns(seen=4, clicked_in_tab=2, long_in_tab=1, click_rate=0.5)
    batch = dataset.transform.raw_batch(Chunk(brought, "rows"))
    assert batch.dense_features[0, -4:].tolist() == [4, 2, 1, 0.5]
    with pytest.raises(UnimixerError, match=r"rows: missing column 'seen'"):
        dataset.transform.raw_batch(Chunk(row, "rows"))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([{"name": "seen", "by": []}], "counts.0.by"),
        ([{"name": "seen", "by": ["user_id"]}, {"name": "seen", "by": ["tab"]}], "count 'seen' is declared twice"),
        ([{"name": "unread", "by": ["user_id"]}], "count 'unread' is read by no feature"),
        ([{"name": "seen", "by": ["user_id"]}, {"name": "tab", "by": ["seen"]}], "reads another count"),
        ([{"name": "seen", "by": ["user_id"], "prior": 2}], "name the event that it is the rate of"),
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
