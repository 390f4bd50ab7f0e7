"""Rows: written whole, read back, replaced by a rerun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_rows import row

from benchmarks.suite.results import read_rows, save_rows
from unimixer.errors import UnimixerError


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [row(), row(implementation="wrong", status="wrong: by 1, 2, and 3", seconds=None, spread=None, repeats=0)]
    path = save_rows(tmp_path / "new", "mixing", rows)
    assert path == tmp_path / "new" / "mixing.csv"
    assert read_rows(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["mixing.csv"]


def test_a_rerun_replaces_and_other_machines_stay(tmp_path: Path) -> None:
    first, other = row(), row(machine="another")
    save_rows(tmp_path, "mixing", [first, other])
    again = replace(first, seconds=0.5, commit="later", date="2031-01-02")
    more = row(case="another")
    save_rows(tmp_path, "mixing", [again, more])
    assert read_rows(tmp_path / "mixing.csv") == [again, other, more]


@pytest.mark.parametrize("change", [{"threads": 2}, {"torch": "2.99"}, {"device": "gpu"}, {"implementation": "b"}])
def test_what_makes_a_row_another_one(change: dict[str, object], tmp_path: Path) -> None:
    save_rows(tmp_path, "mixing", [row(), row(**change)])
    assert len(read_rows(tmp_path / "mixing.csv")) == 2


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with pytest.raises(
        UnimixerError, match=r"no such file; results are written by: python -m benchmarks.suite run NAME"
    ):
        read_rows(path)
    path.write_text("a,b\n1,2\n")
    for attempt in (lambda: read_rows(path), lambda: save_rows(tmp_path, "x", [row()])):
        with pytest.raises(UnimixerError, match="no results of this version: it has no column 'benchmark'; move it"):
            attempt()
    assert path.read_text() == "a,b\n1,2\n"
    path.unlink()
    save_rows(tmp_path, "x", [row()])
    path.write_text(path.read_text().replace("0.25", "fast"))
    with pytest.raises(UnimixerError, match=r"x\.csv, row 1: seconds='fast' is not a number"):
        read_rows(path)
