"""Folders of tables: which files are one log, and what their paths tell."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from unimixer.data.raw.folders import check_one_log, find_file, find_files, log_files, partition_of
from unimixer.errors import UnimixerError


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_files_are_found_in_natural_order(tmp_path: Path) -> None:
    for name in ("part-10.csv", "part-2.csv", "_SUCCESS.csv", ".part-1.csv"):
        write(tmp_path / name, f"x\n{name}\n")
    assert [p.name for p in find_files(tmp_path, "*.csv", "parts")] == ["part-2.csv", "part-10.csv"]


def test_files_that_are_not_there_are_listed_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"no logs; looked for a.csv, b.csv, found an empty folder"):
        find_files(tmp_path, ["a.csv", "b.csv"], "logs")
    write(tmp_path / "c.csv", "")
    with pytest.raises(UnimixerError, match=r"found c.csv"):
        find_files(tmp_path, "a.csv", "logs")
    with pytest.raises(UnimixerError, match=r"no such folder; expected the folder with logs"):
        find_files(tmp_path / "nowhere", "a.csv", "logs")


def test_a_folder_is_read_to_its_depth_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    for name in ("part-10.csv", "more/part-1.csv", "part-2.csv", "_temporary/part-0.csv", ".part-3.csv", "_SUCCESS"):
        write(tmp_path / name, f"x\n{name}\n")
    found = [str(path.relative_to(tmp_path)) for path in log_files(tmp_path)]
    assert found == ["more/part-1.csv", "part-2.csv", "part-10.csv"]


def test_what_is_left_out_for_its_ending_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.csv", "more/b.json", "a.csv.bak", "c.orc"):
        write(tmp_path / name, f"x\n{name}\n")
    assert [path.name for path in log_files(tmp_path)] == ["a.csv"]
    assert capsys.readouterr().err == f"note: {tmp_path}: not read: a.csv.bak, c.orc, more/b.json\n"


@pytest.mark.parametrize("twin", ["log.parquet", "log.csv.gz", "log.tsv", "log.txt"])
def test_one_name_with_two_endings_is_refused(tmp_path: Path, twin: str) -> None:
    write(tmp_path / "log.csv", "x\n1\n")
    write(tmp_path / twin, "x\n2\n")
    with pytest.raises(UnimixerError, match=r"log.csv and log\..* seem to hold the same rows; keep one of them"):
        log_files(tmp_path)


def test_a_log_of_several_formats_is_refused_but_may_be_compressed_in_part(tmp_path: Path) -> None:
    write(tmp_path / "day-1.csv", "x\n1\n")
    (tmp_path / "day-2.csv.gz").write_bytes(gzip.compress(b"x\n2\n"))
    assert [path.name for path in log_files(tmp_path)] == ["day-1.csv", "day-2.csv.gz"]
    pl.DataFrame({"x": [3]}).write_parquet(tmp_path / "day-3.parquet")
    with pytest.raises(UnimixerError, match=r"day-2.csv.gz and .*day-3.parquet: a log of several formats"):
        log_files(tmp_path)


def test_two_files_of_one_content_are_refused_unless_they_hold_no_rows(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, "x,y\n")
    assert len(log_files(tmp_path)) == 2
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, "x,y\n1,2\n")
    with pytest.raises(UnimixerError, match=r"a.csv and .*b.csv have the same content; remove one"):
        log_files(tmp_path)
    write(tmp_path / "b.csv", "x,y\n1,3\n")  # of the same size
    assert len(log_files(tmp_path)) == 2


def test_equal_files_of_different_partitions_are_different_rows(tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        write(tmp_path / f"day={day}" / "part-0.csv", "x\n1\n")
    assert len(log_files(tmp_path)) == 2


def test_the_folders_of_a_path_tell_columns() -> None:
    assert partition_of(Path("log/day=2026-01-01/city=S%C3%A3o%20Paulo/hour=__HIVE_DEFAULT_PARTITION__/p.csv")) == {
        "day": "2026-01-01",
        "city": "São Paulo",
        "hour": None,
    }
    with pytest.raises(UnimixerError, match=r"the path names 'day' twice"):
        partition_of(Path("day=1/day=2/p.csv"))


def test_paths_that_tell_different_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "a.csv", "x\n1\n")
    write(tmp_path / "b.csv", "x\n2\n")
    with pytest.raises(UnimixerError, match=r"day=1/a.csv tells day by its folders, but .*b.csv tells none"):
        log_files(tmp_path)


def test_a_file_that_must_be_one_is_not_chosen_among_two(tmp_path: Path) -> None:
    for name in ("train.csv", "train.gz"):
        write(tmp_path / name, name)
    with pytest.raises(UnimixerError, match=r"train.csv and train.gz seem to hold the same rows"):
        find_file(tmp_path, ["train.csv", "train.gz"], "the log")
    with pytest.raises(UnimixerError, match=r"seem to hold the same rows"):
        check_one_log([tmp_path / "train.csv", tmp_path / "train.gz"])
