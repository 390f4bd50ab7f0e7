"""Arrays: what is written is read back, without a copy, or the file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.encoding.arrays import Ragged, checksum, concatenate, read_arrays, window_positions, write_arrays
from unimixer.errors import UnimixerError

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6)


def ragged(lists: list[list[int]]) -> Ragged:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Ragged(np.array([v for values in lists for v in values], dtype=np.int32), offsets)


def lists_of(column: Ragged) -> list[list[int]]:
    return [column.values[a:b].tolist() for a, b in zip(column.offsets, column.offsets[1:], strict=False)]


@given(LISTS, st.data())
def test_taken_lists_are_those_of_the_rows(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)) if lists else []
    taken = ragged(lists).take(np.array(rows, dtype=np.int64))
    assert lists_of(taken) == [lists[row] for row in rows]
    assert len(taken) == len(rows)


@given(st.lists(LISTS, min_size=1, max_size=4))
def test_concatenated_lists_stand_one_after_the_other(parts: list[list[list[int]]]) -> None:
    joined = concatenate([ragged(part) for part in parts])
    assert lists_of(joined) == [values for part in parts for values in part]


def test_window_positions_of_a_hand_worked_case() -> None:
    positions, offsets = window_positions(np.array([7, 0, 3]), np.array([2, 0, 3]))
    assert positions.tolist() == [7, 8, 3, 4, 5]
    assert offsets.tolist() == [0, 2, 2, 5]


@pytest.mark.parametrize("rows", [0, 3])
def test_every_kind_of_column_reads_back_equal_and_memory_mapped(tmp_path: Path, rows: int) -> None:
    columns = {
        "vector": np.arange(rows, dtype=np.int32),
        "matrix": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        "transposed": np.arange(rows * 2, dtype=np.int64).reshape(2, rows).T,
        "lists": ragged([[1], [], [2, 3]][:rows]),
        "texts": pa.array(["a", "", "ü"][:rows], type=pa.large_string()),
    }
    write_arrays(tmp_path / "a.arrow", columns)
    found = read_arrays(tmp_path / "a.arrow")
    assert list(found) == list(columns)
    for name in ("vector", "matrix", "transposed"):
        np.testing.assert_array_equal(found[name], columns[name])
        assert found[name].dtype == columns[name].dtype
        assert not found[name].flags.writeable  # the file itself, not a copy
    assert lists_of(found["lists"]) == lists_of(columns["lists"])
    assert found["texts"].equals(columns["texts"])


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pytest.raises(UnimixerError, match=r"a\.arrow: a file of the encoded data is missing; prepare the data again"):
        read_arrays(path)
    for content in (b"", b"not arrow at all"):
        path.write_bytes(content)
        with pytest.raises(UnimixerError, match=r"a\.arrow: not a readable Arrow file \(.*\); prepare the data again"):
            read_arrays(path)


def test_a_checksum_changes_with_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123456789")
    assert checksum(path) == "cbf43926"  # the check value of CRC-32
    path.write_bytes(b"123456788")
    assert checksum(path) != "cbf43926"
