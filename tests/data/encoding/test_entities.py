"""Users and items: keys to rows, once and for all chunks alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.encoding.arrays import Ragged, read_arrays, write_arrays
from unimixer.data.encoding.entities import EntityLog, EntityTable, KeyIndex
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError


def series(keys: list[str | None]) -> pl.Series:
    return pl.Series("key", keys, dtype=pl.String)


def test_keys_get_rows_from_2_on_in_order_of_appearance() -> None:
    index = KeyIndex(series(["b", "a", None, "b"]))
    index.add(series(["c", "a"]))
    assert index.keys.to_list() == ["b", "a", "c"]
    assert len(index) == 5
    assert index.lookup(series(["c", None, "zzz", "b"])).tolist() == [4, 0, 1, 2]


@given(st.lists(st.none() | st.sampled_from("abcdef"), max_size=20), st.integers(1, 7))
def test_rows_do_not_depend_on_the_chunks(keys: list[str | None], size: int) -> None:
    pieces = KeyIndex()
    for start in range(0, len(keys), size):
        pieces.add(series(keys[start : start + size]))
    assert pieces.keys.to_list() == KeyIndex(series(keys)).keys.to_list() == list(dict.fromkeys(filter(None, keys)))


def test_keys_of_the_table_come_first_and_those_of_the_log_have_no_features() -> None:
    log = EntityLog(Chunk(pl.DataFrame({"id": [7.0, 5.0], "age": [1, 2]}), "users.csv"), "id")
    assert log.read(Chunk(pl.DataFrame({"id": ["9", "5", None]}), "log.csv")).tolist() == [4, 3, 0]
    assert log.chunk().frame.rows() == [("7", 1), ("5", 2), ("9", None)]
    assert len(log.train_counts) == 5


def test_without_a_table_or_a_key_there_is_nothing_but_the_keys() -> None:
    log = EntityLog(None, "id")
    log.read(Chunk(pl.DataFrame({"id": ["b", "a"]}), "log.csv"))
    assert log.chunk().frame.rows() == [("b",), ("a",)]
    assert EntityLog(None, None).read(Chunk(pl.DataFrame({"id": ["b"]}), "log.csv")) is None


def test_a_key_that_stands_twice_is_named_with_both_rows() -> None:
    table = Chunk(pl.DataFrame({"id": ["a", "3", "b", "3.0"]}), "users.csv")
    with pytest.raises(UnimixerError, match=r"^users\.csv, row 4: id='3' is in row 2 already; keys must be unique"):
        EntityLog(table, "id")


def test_a_row_without_a_key_is_named() -> None:
    table = Chunk(pl.DataFrame({"id": ["a", "", "b"]}), "users.csv", first_row=10)
    with pytest.raises(UnimixerError, match=r"^users\.csv, row 11: id is missing"):
        EntityLog(table, "id")


@pytest.mark.parametrize("width", [0, 2])
def test_an_entity_table_reads_back_equal(tmp_path: Path, width: int) -> None:
    index = KeyIndex(series(["x", "ü"]))
    lists = {"tags": Ragged(np.array([4, 5], dtype=np.int32), np.array([0, 0, 0, 2, 2]))} if width else {}
    ids = np.arange(4 * width, dtype=np.int32).reshape(4, width)
    table = EntityTable(index, ids, ids.astype(np.float32), lists, history_ids=ids)
    write_arrays(tmp_path / "users.arrow", table.columns())
    found = EntityTable.from_columns(read_arrays(tmp_path / "users.arrow"))
    assert found.index.keys.to_list() == ["x", "ü"]
    assert len(found) == 4
    for name in ("ids", "dense", "history_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
        assert getattr(found, name).dtype == getattr(table, name).dtype
    assert found.lists.keys() == lists.keys()
