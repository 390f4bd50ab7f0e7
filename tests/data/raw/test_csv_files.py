"""CSV: separators, encodings, headers, and files that are let go of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from unimixer.data.file_settings import Files
from unimixer.data.raw.csv_files import like_values, sniff
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.errors import UnimixerError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    return read_table(path, files=Files.model_validate(options)).frame.rows()


def test_a_separator_may_have_several_characters_and_stand_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a::b\n1::"x::y"\n:2:::3\n')
    assert read(path, separator="::") == [("1", "x::y"), (":2", ":3")]
    long = write(tmp_path / "b.csv", "a::b\n" + "12345::67890\n" * 700_000)  # cut at any place by the blocks
    assert {row for c in read_chunks([long], files=Files(separator="::")) for row in c.frame.unique().rows()} == {
        ("12345", "67890")
    }


def test_the_byte_that_stands_for_a_long_separator_is_refused_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"holds the control character"):
        read(write(tmp_path / "a.csv", "a::b\n1::\x1f\n"), separator="::")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gb18030", "shift-jis"])
def test_an_encoding_that_is_named_is_read(tmp_path: Path, encoding: str) -> None:
    word = {"gb18030": "用户", "shift-jis": "東京"}.get(encoding, "café")
    path = write(tmp_path / "a.csv", f"{word},b\n{word},2\n".encode(encoding))
    assert read_table(path, files=Files(encoding=encoding)).frame.to_dict(as_series=False) == {word: [word], "b": ["2"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n".encode("utf-16"), "a.csv: is UTF-16 text; convert it to UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "the header holds zero bytes, as UTF-16 text does"),
        (b"PAR1....", "is a Parquet file; let its name end with .parquet"),
        (b"\x1f\x8b....", "is compressed with gzip; let its name end with .gz"),
        (b"PK\x03\x04....", "is a zip archive; unpack it"),
    ],
)
def test_bytes_of_another_kind_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        read(write(tmp_path / "a.csv", content))


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_header_line_alone_has_no_rows_and_a_last_row_needs_no_line_end(tmp_path: Path, end: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(f"user_id,click{end}".encode())
    with pytest.raises(UnimixerError, match=r"log.csv: no rows, expected at least one"):
        list(read_chunks([path]))
    path.write_bytes(f'user_id,click\n7,"1"{end}'.encode())
    assert [chunk.frame.rows() for chunk in read_chunks([path])] == [[("7", "1")]]


def test_a_doubled_or_missing_name_matters_only_where_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",x,y,x,\n0,1,2,3,4\n")
    assert read_table(path, columns=["y"]).frame.rows() == [("2",)]
    with pytest.raises(UnimixerError, match=r"a.csv: the header names column 'x' twice"):
        read_table(path, columns=["y", "x"])


def test_an_open_quote_is_found_in_a_column_that_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"row 2: a quote \" opens here and is never closed"):
        read_table(write(tmp_path / "a.csv", 'a,b\n1,2\n3,"4\n5,6\n'), columns=["a"])


def test_a_header_that_is_given_is_refused_where_the_file_has_one(tmp_path: Path) -> None:
    names = ["user", "item", "click"]
    with pytest.raises(UnimixerError, match=r"the first line is a header line \(user, item, click\)"):
        read(write(tmp_path / "a.csv", "user,item,click\n1,2,0\n"), header=names)
    with pytest.raises(UnimixerError, match=r"the first line is a header line \(u, i, label\)"):
        read(write(tmp_path / "a.csv", "u,i,label\n1,2,0\n"), header=names)
    assert read(write(tmp_path / "a.csv", "u1,i2,0\nu2,i3,1\n"), header=names) == [("u1", "i2", "0"), ("u2", "i3", "1")]


def test_a_missing_column_of_a_file_without_header_says_so(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "user,click\n17,0\n")
    second = write(tmp_path / "b.csv", "18,1\n19,0\n")
    with pytest.raises(UnimixerError, match=r"b.csv: missing column 'user'.*the first line looks like values.*header"):
        list(read_chunks([first, second]))
    with pytest.raises(UnimixerError, match=r"the first line holds ';': name it as the 'separator'"):
        read_table(write(tmp_path / "c.csv", "user;click\n1;0\n"), columns=["user"])


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["102", "17000001", "0"], True),
        (["u1", "2023-11-14 10:00:00"], True),
        (["user", "item"], False),
        (["0", "1", "2", "label"], False),
    ],
)
def test_a_first_line_of_numbers_or_dates_is_no_header_but_a_count_is(names: list[str], values: bool) -> None:
    assert like_values(names) is values


@pytest.mark.parametrize(
    ("name", "content", "separator"),
    [
        ("a.csv", "a;b\n1,5;2\n3;4\n", ";"),
        ("a.csv", "a\tb\n1\t2\n", "\t"),
        ("a.csv", "a|b|c\n1|2|3\n", "|"),
        ("a.csv", "a::b\n1::2\n", "::"),
        ("a.csv", "a,b\n1,x|y\n2,z|w\n", None),
        ("a.tsv", "a\tb\n1\t2\n", None),
        ("a.csv", "a\n1\n", None),
    ],
)
def test_a_separator_is_found_where_all_lines_agree_on_it(
    tmp_path: Path, name: str, content: str, separator: str | None
) -> None:
    assert sniff(write(tmp_path / name, content), Files()).separator == separator


def test_a_reader_that_is_left_half_way_or_refuses_does_not_abort_the_process(tmp_path: Path) -> None:
    """On one processor the thread that reads ahead is still at it when the interpreter ends."""
    write(tmp_path / "empty.csv", "a,b\n")
    write(tmp_path / "wrong.csv", "a,b\n" + "1,2\n" * 2_000_000 + "3\n")
    script = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from unimixer.data.raw.readers import read_chunks
chunks = read_chunks([Path(sys.argv[1])])
if sys.argv[2] == "half":
    next(chunks)
    del chunks
else:
    try:
        list(chunks)
    except ValueError as error:
        print(error)
sys.exit(2)
"""
    for name, how in (("empty.csv", "whole"), ("wrong.csv", "half"), ("wrong.csv", "whole")):
        command = [sys.executable, "-c", script, str(tmp_path / name), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert (done.returncode, done.stderr) == (2, "")


def test_the_command_that_refuses_a_file_ends_with_2(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,click\n")
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from unimixer.cli import main; main()"
    if not hasattr(os, "sched_setaffinity"):
        script = "from unimixer.cli import main; main()"
    command = [sys.executable, "-c", script, "data", "init", "--from", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (2, f"error: {path}: no rows, expected at least one\n")


def test_other_columns_are_not_parsed(tmp_path: Path) -> None:
    chunk = read_table(write(tmp_path / "a.csv", "a,b,c\n1,2,3\n"), columns=["b"], optional=["c", "z"])
    assert chunk.frame.equals(pl.DataFrame({"b": ["2"], "c": ["3"]}))
    assert chunk.columns == ["b", "c", "a"]
