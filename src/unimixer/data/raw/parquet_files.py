"""Read one Parquet file: its columns, their types, and runs of row groups that are read or skipped at once."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet

from unimixer.data.raw.csv_files import reason
from unimixer.data.raw.tables import CHUNK_ROWS, Chunk
from unimixer.data.time_format import is_zone
from unimixer.errors import UnimixerError

_WIDEST = 38
"""Digits that a decimal of 128 bits holds."""


class ParquetFile:
    """A Parquet file whose schema is known.

    Args:
        path: the file.

    Raises:
        UnimixerError: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = parquet.ParquetFile(
                path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
            self._types = list(self._file.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise UnimixerError(f"{path}: not a Parquet file: {reason(error)}") from None
        self.names: list[str] = [field.name for field in self._types]

    def duplicates(self) -> set[str]:
        """Return the names that more than one column has."""
        return {name for name in self.names if name and self.names.count(name) > 1}

    def hint(self) -> str:
        """Return no hint; a missing column in Parquet needs none."""
        return ""

    def categories(self) -> set[str]:
        """Return the columns that were written as categories, whatever type they are read in."""
        kept = (self._file.metadata.metadata or {}).get(b"ARROW:schema")
        if kept is None:
            return set()
        written = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(kept)))
        return {field.name for field in written if pa.types.is_dictionary(field.type)}

    def any_column(self) -> list[str]:
        """Return a column that can be read."""
        unreadable = self.unreadable()
        return [name for name in self.names if name not in unreadable][:1]

    def empty(self, columns: Sequence[str]) -> pl.DataFrame:
        """Return the columns without rows, in their polars types.

        Raises:
            UnimixerError: polars has no such type.
        """
        return pl.DataFrame([_series(self.path, self._field(name), None) for name in columns])

    def unreadable(self) -> dict[str, str]:
        """Return the columns that cannot be read, and their types."""
        types = {}
        for field in self._types:
            try:
                _series(self.path, field, None)
            except UnimixerError:
                types[field.name] = str(field.type)
        return types

    def pieces(self, columns: Sequence[str], shard: range, piece: int) -> Iterator[tuple[int, int, Chunk | None]]:
        """Yield number, rows and, inside ``shard``, the chunk of every piece, from number ``piece`` on."""
        self.empty(columns)  # a type that cannot be read is refused before any row
        rows = 0
        try:
            for number, (groups, height) in enumerate(runs_of_groups(self._file.metadata), piece):
                if number not in shard:
                    yield number, height, None
                    rows += height
                    continue
                for batch in self._file.iter_batches(batch_size=CHUNK_ROWS, row_groups=groups, columns=list(columns)):
                    series = [_series(self.path, self._field(name), batch.column(name)) for name in columns]
                    frame = pl.DataFrame(series)
                    yield number, batch.num_rows, Chunk(frame, source=str(self.path), first_row=rows + 1)
                    rows += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UnimixerError(f"{self.path}, after row {rows}: cannot be read: {reason(error)}") from None

    def _field(self, name: str) -> Any:
        return self._types[self.names.index(name)]


def runs_of_groups(metadata: Any) -> Iterator[tuple[list[int], int]]:
    """Yield the row groups of each piece and their rows: as many as ``CHUNK_ROWS`` holds, at least one."""
    groups: list[int] = []
    height = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if groups and height + rows > CHUNK_ROWS:
            yield groups, height
            groups, height = [], 0
        groups, height = [*groups, group], height + rows
    if groups:
        yield groups, height


def _series(path: Path, field: Any, values: Any) -> pl.Series:
    """Convert a column to polars; without values, return an empty one."""
    kind = _readable(field.type)
    try:
        # polars panics at 256 bits, wherever they stand, and a panic prints
        if "decimal256" in str(kind):
            raise pa.ArrowNotImplementedError("polars has no decimal of 256 bits")
        array = pa.array([], kind) if values is None else values if kind == field.type else values.cast(kind)
        series = pl.from_arrow(array)
        assert isinstance(series, pl.Series)
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UnimixerError(
            f"{path}: column {field.name!r} of type {field.type} cannot be read ({reason(error)}); "
            "write it in another type, or leave it out of the schema"
        ) from None
    return series.rename(field.name)


def _readable(kind: Any) -> Any:
    """Return the equivalent type that polars knows; times keep their instant, not their zone."""
    if pa.types.is_timestamp(kind) and kind.tz is not None and not is_zone(kind.tz):
        return pa.timestamp(kind.unit, "UTC")
    if pa.types.is_decimal256(kind) and kind.precision <= _WIDEST:
        return pa.decimal128(kind.precision, kind.scale)
    return kind
