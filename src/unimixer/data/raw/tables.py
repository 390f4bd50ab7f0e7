"""The raw tables that an adapter opens: a stream of impressions and two entity tables, with their schema."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.data.schema import Schema

CHUNK_ROWS = 262_144
"""Rows of one piece of the impression stream; memory grows with it and not with the log."""

WHOLE = range(sys.maxsize)
"""The shard that is the whole log; a shard is a range of numbers of pieces, ``range(w, sys.maxsize, n)`` or one run."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a raw table, and where they came from, so that an error can name the file and the row."""

    frame: pl.DataFrame
    source: str
    first_row: int = 1
    """Number, counted from 1, that the first row of the frame has among the data rows of its source."""
    others: tuple[str, ...] = ()
    """Columns of the source that were not read."""

    @property
    def columns(self) -> list[str]:
        """The columns of the source."""
        return [*self.frame.columns, *self.others]

    def at(self, row: int) -> str:
        """Return the file and the number of row ``row`` (counted from 0) of the frame, for a message."""
        return f"{self.source}, row {self.first_row + row}"


@dataclass(frozen=True)
class Placed:
    """Some rows of the log and their place in it.

    A piece is the least that a worker takes: a chunk, or what the reader skips at once, which may be several chunks.
    """

    piece: int
    first_row: int
    """Rows of the whole log before these."""
    rows: int
    chunk: Chunk | None
    """None where the piece belongs to the shard of another worker."""

    @property
    def step(self) -> tuple[int, int]:
        """Rows done with this, and the row of the log that comes next: a step of a pass."""
        return 0 if self.chunk is None else self.rows, self.first_row + self.rows


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
    reader: Callable[[range], Iterator[Placed]] | None = None
    """A pass over a shard where the reader can skip the rest; without it, all is read and some is dropped."""
    files: tuple[Path, ...] = ()
    """What the tables are read from."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a simulator knows of its world, kept in the manifest of the dataset."""

    def pieces(self, shard: range = WHOLE) -> Iterator[Placed]:
        """Start a pass over the pieces of a shard, in the order of the log; those of others come without their rows."""
        for placed in self._placed() if self.reader is None else self.reader(shard):
            if placed.piece >= shard.stop:
                return
            yield placed if placed.piece in shard else replace(placed, chunk=None)

    def _placed(self) -> Iterator[Placed]:
        first_row = 0
        for piece, chunk in enumerate(self.impressions()):
            yield Placed(piece, first_row, chunk.frame.height, chunk)
            first_row += chunk.frame.height
