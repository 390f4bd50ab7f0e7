"""The first rows of a table, to be looked at before anything is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from unimixer.data.raw.csv_files import CsvFile, like_values
from unimixer.data.raw.folders import partition_of
from unimixer.data.raw.parquet_files import ParquetFile
from unimixer.data.raw.profile import Column, profile
from unimixer.data.raw.readers import open_table, read_chunks
from unimixer.data.schema import Files
from unimixer.errors import UnimixerError

SAMPLE_ROWS = 200_000


@dataclass(frozen=True)
class Sample:
    """Some rows of a table."""

    file: Path
    """The first file that has rows."""
    frame: pl.DataFrame
    categories: frozenset[str]
    """Columns that the file calls categories."""
    left: dict[str, str]
    """Columns that were not read, and why."""

    def columns(self) -> list[Column]:
        """What the values of the columns look like."""
        return [profile(series, category=series.name in self.categories) for series in self.frame.get_columns()]


def take_sample(paths: Sequence[Path], files: Files) -> Sample:
    """Read the first rows of the files of one table.

    Raises:
        UnimixerError: there is no row; or the first line of a CSV file looks like values.
    """
    for path in paths:
        table = open_table(path, files)
        left = dict.fromkeys(table.doubled(), "stands twice")
        categories = frozenset[str]()
        if isinstance(table, ParquetFile):
            left |= {name: f"type {kind} is not read" for name, kind in table.unreadable().items()}
            categories = frozenset(table.categories())
        names = [name for name in (*table.names, *partition_of(path)) if name not in left]
        frames: list[pl.DataFrame] = []
        # later files may have other columns or types: a sample of one file is of one kind
        for chunk in read_chunks([path], columns=[], optional=names, files=files, or_empty=True):
            frames.append(chunk.frame)
            if sum(frame.height for frame in frames) >= SAMPLE_ROWS:
                break
        frame = pl.concat(frames).head(SAMPLE_ROWS)
        if frame.height:
            if isinstance(table, CsvFile) and files.header is None:
                _check_header(table, frame)
            return Sample(path, frame, categories, left)
    raise UnimixerError(f"{', '.join(map(str, paths))}: no rows, expected at least one")


def _check_header(table: CsvFile, frame: pl.DataFrame) -> None:
    """Raise where the names are values: numbers or dates, or what stands below them too."""
    again = [name for name in frame.columns if (frame.get_column(name) == name).any()]
    if like_values(table.names) or len(again) * 2 > len(frame.columns):
        raise UnimixerError(
            f"{table.path}: the first line looks like values ({', '.join(table.names[:6])}), not like names; if the "
            "file has no header line, name its columns: header=user_id,item_id,...; else rename those that are numbers"
        )
