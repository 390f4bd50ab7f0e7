"""Readers: rows, their numbers, and one sentence for every file that is not as it should be."""

from __future__ import annotations

import gzip
import resource
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimixer.data.file_settings import Files
from unimixer.data.raw.readers import read_chunks, read_pieces, read_table
from unimixer.data.raw.tables import CHUNK_ROWS
from unimixer.errors import UnimixerError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    return read_table(path, **options).frame.rows()


def test_csv_columns_are_text_and_an_empty_field_is_the_empty_text(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'user,price,range\n007,1.50,"[1,5)"\n8,,""\n')
    assert read(path) == [("007", "1.50", "[1,5)"), ("8", "", "")]
    assert set(read_table(path).frame.schema.values()) == {pl.String()}


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "seen": [[3, 4], None], "score": [0.5, None]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert read_table(tmp_path / "log.parquet").frame.equals(frame)


def test_columns_come_in_the_order_asked_for_from_both_kinds_of_file(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "a,b,c\n1,2,3\n")
    pl.DataFrame({"a": [1], "b": [2], "c": [3]}).write_parquet(tmp_path / "log.parquet")
    assert read(tmp_path / "log.csv", columns=["c", "a"]) == [("3", "1")]
    assert read(tmp_path / "log.parquet", columns=["c", "a"]) == [(3, 1)]


def test_tsv_gzip_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.tsv", "a\tb\n1\t2\n")) == [("1", "2")]
    assert read(write(tmp_path / "a.csv.gz", gzip.compress(b"a,b\n1,2\n"))) == [("1", "2")]
    assert read(write(tmp_path / "b.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n"), columns=["a"]) == [("1",)]


def test_a_file_without_header_takes_the_given_names(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", '1\t"x\n0\ty\n')
    table = read_table(path, files=Files(separator="\t", header=("label", "c"), quote=""))
    assert table.frame.to_dict(as_series=False) == {"label": ["1", "0"], "c": ['"x', "y"]}


def test_latin_1_is_read_where_it_is_named(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", b"a\ncaf\xe9\n"), files=Files(encoding="latin-1")) == [("café",)]


def test_rows_are_numbered_within_each_file_over_all_chunks(tmp_path: Path) -> None:
    rows = CHUNK_ROWS + 10
    big = write(tmp_path / "a.csv", "n\n" + "".join(f"{i}\n" for i in range(1, rows + 1)))
    pl.DataFrame({"n": range(1, rows + 1)}).write_parquet(tmp_path / "b.parquet", row_group_size=rows)
    chunks = list(read_chunks([big, tmp_path / "b.parquet", write(tmp_path / "c.csv", "n\n1\n")]))
    for chunk in chunks:
        assert chunk.frame.height <= CHUNK_ROWS
        assert int(chunk.frame.item(0, 0)) == chunk.first_row
    assert [c.first_row for c in chunks if c.source == str(tmp_path / "b.parquet")] == [1, CHUNK_ROWS + 1]
    assert chunks[-1].at(0) == f"{tmp_path / 'c.csv'}, row 1"


def test_a_share_has_the_rows_of_its_pieces_and_knows_where_they_stand(tmp_path: Path) -> None:
    """Files of one chunk, of many row groups, of one row group that is two chunks, and of none at all."""
    rows = CHUNK_ROWS + 10
    paths = [write(tmp_path / "a.csv", "n\n0\n1\n2\n")]
    for name, count, group in (("b", 700_000, 100_000), ("c", rows, rows), ("d", 0, 1), ("e", 5, 5)):
        paths.append(tmp_path / f"{name}.parquet")
        pl.DataFrame({"n": range(count)}, schema={"n": pl.Int64}).write_parquet(paths[-1], row_group_size=group)
    total = 3 + 700_000 + rows + 5
    whole = list(read_pieces(paths))
    assert [(p.first_row, p.rows) for p in whole if p.piece >= 5] == [
        (700_003, CHUNK_ROWS), (700_003 + CHUNK_ROWS, 10), (total - 5, 5)
    ]  # fmt: skip
    assert sum(p.rows for p in whole) == total
    seen = []
    for share in (range(0, 100, 2), range(1, 100, 2)):
        pieces = list(read_pieces(paths, share))
        assert sum(p.rows for p in pieces) == total
        assert all((p.chunk is not None) or p.piece not in share for p in pieces)
        parquet = [p for p in pieces if p.chunk is not None and p.chunk.source.endswith(".parquet")]
        assert all(p.piece in share for p in parquet)
        seen += [
            (p.first_row, p.chunk.frame["n"].cast(pl.Int64).to_list()) for p in pieces if p.piece in share and p.chunk
        ]
    assert sorted(seen) == [(p.first_row, p.chunk.frame["n"].cast(pl.Int64).to_list()) for p in whole if p.chunk]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=6)]
            * 2
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_text_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    pl.DataFrame(rows, schema=["a", "b"], orient="row").write_csv(path, quote_style="always")
    assert read(path) == rows


@pytest.mark.parametrize(("line", "found"), [("5", 1), ("6,7,8", 3)])
def test_a_ragged_row_is_named_with_its_number(tmp_path: Path, line: str, found: int) -> None:
    path = write(tmp_path / "log.csv", f"a,b\n1,2\n\n3,4\n{line}\n9,9\n")
    with pytest.raises(
        UnimixerError, match=rf"log.csv, row 3: expected 2 fields, found {found} \({line}\); correct the row"
    ):
        read(path)


def test_a_ragged_row_is_counted_without_a_header_too_and_far_into_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "1\t2\n" * 2_000_000 + "3\n")
    with pytest.raises(UnimixerError, match=r"row 2000001: expected 2 fields, found 1"):
        list(read_chunks([path], files=Files(separator="\t", header=("x", "y"))))


@pytest.mark.parametrize("content", ['a,b\n1,2\n3,"4\n5,6\n', 'a,b\n1,2\n3,"4\n5,6'])
def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path: Path, content: str) -> None:
    with pytest.raises(UnimixerError, match=r'log.csv, row 2: a quote " opens here and is never closed'):
        read(write(tmp_path / "log.csv", content))
    assert read(write(tmp_path / "fine.csv", content.rstrip("\n") + '"\n')) == [("1", "2"), ("3", "4\n5,6")]


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"log.csv, line 3: not UTF-8 text; convert the file"):
        read(write(tmp_path / "log.csv", b"a,b\n1,2\n3,\xff\n"))
    with pytest.raises(UnimixerError, match=r"the header is not utf-8 text"):
        read(write(tmp_path / "log.csv", b"a,\xff\n1,2\n"))


def test_a_broken_archive_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(200_000)))
    with pytest.raises(UnimixerError, match=r"log.csv.gz, after row .*: cannot be read: Truncated compressed stream"):
        list(read_chunks([write(tmp_path / "log.csv.gz", whole[: len(whole) // 2])]))
    with pytest.raises(UnimixerError, match=r"log.parquet: not a Parquet file"):
        read(write(tmp_path / "log.parquet", "nonsense"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "", "the file is empty"),
        ("log.csv", "a,b\n", "log.csv: no rows, expected at least one"),
        ("log.csv", "\n1,2\n", "the first line is empty, expected the names of the columns"),
        ("log.csv", "a,b,a\n1,2,3\n", "the header names column 'a' twice"),
    ],
)
def test_files_that_hold_no_table_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        read(write(tmp_path / name, content))


def test_a_missing_file_and_a_missing_column_give_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(UnimixerError, match=r"logs.csv: no such file; did you mean 'log.csv'"):
        read(tmp_path / "logs.csv")
    with pytest.raises(UnimixerError, match=r"log.csv: missing column 'userid'; did you mean 'user_id'"):
        read(tmp_path / "log.csv", columns=["userid"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UnimixerError, match=r"is a folder, expected a file"):
        read(tmp_path / "folder.csv")


def test_later_files_must_have_the_columns_of_the_first(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.csv", "x,y\n1,2\n"), write(tmp_path / "b.csv", "y,x\n4,3\n")
    assert [c.frame.rows() for c in read_chunks([first, second])] == [[("1", "2")], [("3", "4")]]
    with pytest.raises(UnimixerError, match=r"b.csv: missing column 'y'"):
        list(read_chunks([first, write(tmp_path / "b.csv", "x,z\n4,3\n")]))


def test_an_empty_part_among_others_is_no_error(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.csv", "x\n"), write(tmp_path / "b.csv", "x\n1\n")]
    assert sum(c.frame.height for c in read_chunks(parts)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in another unit elsewhere")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({f"c{i}": range(CHUNK_ROWS) for i in range(8)})
    path = tmp_path / f"log{suffix}"
    frame.write_parquet(path) if suffix == ".parquet" else frame.write_csv(path)

    def peak_after(files: int) -> int:
        for _ in read_chunks([path] * files):
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    warm = peak_after(4)
    size = frame.estimated_size()
    assert peak_after(20) - warm < 2 * size  # sixteen more files, each of that size in memory
