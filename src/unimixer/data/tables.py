"""What an adapter hands over: a stream of impressions and two entity tables, with the schema that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from unimixer.data.schema import Schema

CHUNK_ROWS = 262_144
"""Rows of one piece of the impression stream; memory grows with it and not with the log."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a raw table, and where they came from, so that an error can name the file and the row."""

    frame: pl.DataFrame
    source: str
    first_row: int = 1
    """Number, counted from 1, that the first row of the frame has among the data rows of its source."""

    def at(self, row: int) -> str:
        """The place of row ``row`` (counted from 0) of the frame, for a message."""
        return f"{self.source}, row {self.first_row + row}"


@dataclass(frozen=True)
class RawTables:
    """Raw data, unread: columns as in the files (text from CSV, types from Parquet)."""

    schema: Schema
    impressions: Callable[[], Iterator[Chunk]]
    """Starts a fresh pass over the log, in the order of its files."""
    users: Chunk | None = None
    """One row a user; its key column has the name ``schema.keys.user``."""
    items: Chunk | None = None
    num_rows: int | None = None
    """Number of impressions where it is known beforehand (for progress bars)."""
