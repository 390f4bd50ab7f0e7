"""Folders of tables: which files are one log, and what their paths tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.data.folders import find_files
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
