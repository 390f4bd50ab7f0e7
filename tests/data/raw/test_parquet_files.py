"""Parquet: only what is needed is read; types that cannot be read, and damage, are named."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from unimixer.data.raw.parquet_files import ParquetFile
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.errors import UnimixerError

WIDE = pa.array([Decimal(1), Decimal(2)], pa.decimal256(50, 2))
OFFSET = pa.array([1_700_000_000_000, 1_700_000_060_000], pa.timestamp("ms", "+05:30"))


def write(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("odd", [WIDE, pa.array([[Decimal(1)], []], pa.list_(pa.decimal256(50, 2)))])
def test_a_type_that_cannot_be_read_matters_only_where_it_is_read(tmp_path: Path, odd: Any) -> None:
    path = write(tmp_path / "a.parquet", x=[1, 2], odd=odd)
    assert read_table(path, columns=["x"]).frame.rows() == [(1,), (2,)]
    with pytest.raises(UnimixerError, match=r"a.parquet: column 'odd' of type .*decimal256\(50, 2\).* cannot be read"):
        read_table(path, columns=["x", "odd"])
    assert set(ParquetFile(path).unreadable()) == {"odd"}


def test_a_time_with_an_offset_keeps_its_instant(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "a.parquet", time=OFFSET), columns=["time"]).frame
    assert frame.get_column("time").dt.epoch("ms").to_list() == [1_700_000_000_000, 1_700_000_060_000]


def test_a_decimal_of_256_bits_with_few_digits_is_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", price=pa.array([Decimal("1.25")], pa.decimal256(20, 2)))
    assert read_table(path).frame.rows() == [(Decimal("1.25"),)]


def test_two_columns_of_one_name_are_refused_where_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["x", "y", "x"]), path)
    assert read_table(path, columns=["y"]).frame.rows() == [(2,)]
    with pytest.raises(UnimixerError, match=r"a.parquet: the file names column 'x' twice"):
        read_table(path)


def test_a_column_without_a_name_does_not_matter(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["", "y"]), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").frame.to_dict(as_series=False) == {"y": [2]}


def test_a_page_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = pa.table({"x": list(range(1000))})
    parquet.write_table(values, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index((500).to_bytes(8, "little"))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnimixerError, match=r"a.parquet, after row 0: cannot be read: .*CRC"):
        read_table(path)


def test_the_columns_of_a_partition_stand_in_the_rows(tmp_path: Path) -> None:
    paths = []
    for day, value in (("1", 10), ("__HIVE_DEFAULT_PARTITION__", 20)):
        (tmp_path / f"day={day}").mkdir()
        paths.append(write(tmp_path / f"day={day}" / "p.parquet", x=[value]))
    frame = pl.concat(chunk.frame for chunk in read_chunks(paths, columns=["day", "x"]))
    assert frame.rows() == [("1", 10), (None, 20)]
    assert read_table(paths[0], columns=["day"]).frame.rows() == [("1",)]


def test_a_column_that_stands_in_the_path_and_in_the_file_must_agree(tmp_path: Path) -> None:
    (tmp_path / "hour=03").mkdir()
    path = write(tmp_path / "hour=03" / "p.parquet", hour=[3, 3])
    assert read_table(path).frame.rows() == [(3,), (3,)]
    write(path, hour=[3, 4])
    with pytest.raises(UnimixerError, match=r"p.parquet, row 2: hour=4, but the path of the file says '03'"):
        read_table(path)


def test_files_without_rows_give_one_chunk_with_the_types_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=pa.array([], pa.int64()), y=pa.array([], pa.string()))
    [chunk] = read_chunks([path], or_empty=True)
    assert chunk.frame.schema == {"x": pl.Int64, "y": pl.String}
    with pytest.raises(UnimixerError, match=r"no rows, expected at least one"):
        list(read_chunks([path]))


def test_what_the_writer_called_a_category_is_known_whatever_its_values_are(tmp_path: Path) -> None:
    codes = pa.array([7, 8]).dictionary_encode()
    path = write(tmp_path / "a.parquet", code=codes, name=pa.array(["a", "b"]).dictionary_encode(), x=[1, 2])
    assert ParquetFile(path).categories() == {"code", "name"}
