"""Stream raw files in chunks: text from CSV, types from Parquet, only the requested columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.data.file_settings import Files
from unimixer.data.raw.csv_files import CsvFile
from unimixer.data.raw.folders import is_parquet, partition_of
from unimixer.data.raw.parquet_files import ParquetFile
from unimixer.data.raw.tables import WHOLE, Chunk, Placed
from unimixer.errors import UnimixerError, nearest
from unimixer.io import near_file


def read_chunks(paths: Sequence[Path], **options: Any) -> Iterator[Chunk]:
    """Stream the rows of some files, one after the other; ``options`` are those of :func:`read_pieces`.

    Example:
        >>> for chunk in read_chunks([Path("log.csv")], columns=["user_id", "is_click"]):  # doctest: +SKIP
        ...     print(chunk.at(0), chunk.frame.height)
        log.csv, row 1 262144
    """
    return (placed.chunk for placed in read_pieces(paths, **options) if placed.chunk is not None)


def read_pieces(
    paths: Sequence[Path],
    shard: range = WHOLE,
    *,
    columns: Sequence[str] | None = None,
    optional: Sequence[str] = (),
    files: Files | None = None,
    or_empty: bool = False,
) -> Iterator[Placed]:
    """Stream a shard of the rows of some files, one after the other; other pieces come without their rows.

    Columns of CSV files (also gzipped) are text, an empty field is the empty text; Parquet keeps its types. A folder
    ``day=2026-01-01`` in the path of a file is a column ``day`` of text. Memory does not depend on the number of rows:
    CSV is parsed in blocks of 4 MiB, Parquet in batches of ``CHUNK_ROWS`` rows.

    A piece of CSV is a chunk, and those of others are parsed and dropped, because only a parser knows where a row ends.
    A piece of Parquet is a run of row groups of about ``CHUNK_ROWS`` rows, and those of others are not read.

    Args:
        paths: files with the same columns; rows are numbered within each.
        shard: the pieces to read.
        columns: columns to read, in this order, each once, which every file must have (default: all of the first file).
        optional: columns to read after those, where the first file has them.
        files: how CSV files are read.
        or_empty: where there is no row in any file, hand over a chunk without rows instead of raising.

    Raises:
        UnimixerError: a file is missing, empty, of an unknown kind, lacks a column or has a malformed row; or there is
            no row in any of them.
    """
    piece, rows, chosen, empty = 0, 0, False, None
    for path in paths:
        table, partition = open_table(path, files or Files()), partition_of(path)
        kept = _kept(path, table, partition, columns, optional)
        stored = [name for name in kept if name in table.names] or table.any_column()  # rows must be counted
        others = tuple(name for name in (*table.names, *partition) if name not in kept)
        if isinstance(table, ParquetFile):
            placed = table.pieces(stored, shard, piece)
        else:
            placed = ((number, c.frame.height, c) for number, c in enumerate(table.chunks(stored), piece))
        for piece, height, chunk in placed:
            whole = None if chunk is None else _whole(chunk, kept, partition, others)
            yield Placed(piece, rows, height, whole)
            rows += height
        if rows and not chosen:  # the first file with rows says what all must have
            columns, optional, chosen = kept, (), True
        empty = empty or _whole(Chunk(table.empty(stored), str(path)), kept, partition, others)
        piece += 1
    if rows == 0:
        if not or_empty or empty is None:
            raise UnimixerError(f"{', '.join(map(str, paths)) or 'no file'}: no rows, expected at least one")
        yield Placed(piece, 0, 0, empty)


def read_table(paths: Path | Sequence[Path], **options: Any) -> Chunk:
    """Read a whole table, such as that of the users; ``options`` are those of :func:`read_pieces`."""
    files = [paths] if isinstance(paths, Path) else list(paths)
    chunks = list(read_chunks(files, **options))
    source = str(files[0] if len(files) == 1 else files[0].parent)
    try:
        frame = pl.concat([chunk.frame for chunk in chunks], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UnimixerError(
            f"{source}: its files hold a column in different types ({error}); write them alike"
        ) from None
    return Chunk(frame, source, others=chunks[0].others)


def open_table(path: Path, files: Files) -> CsvFile | ParquetFile:
    """Open a file and read its header or schema.

    Raises:
        UnimixerError: there is no such file, or it is empty, or not of its kind.
    """
    if not path.exists():
        raise UnimixerError(f"{path}: no such file{near_file(path)}")
    if path.is_dir():
        raise UnimixerError(f"{path}: is a folder, expected a file")
    if path.stat().st_size == 0:
        raise UnimixerError(f"{path}: the file is empty; expected a table with at least one row")
    return ParquetFile(path) if is_parquet(path) else CsvFile(path, files)


def _kept(
    path: Path,
    table: CsvFile | ParquetFile,
    partition: Mapping[str, str | None],
    columns: Sequence[str] | None,
    optional: Sequence[str],
) -> list[str]:
    """Return the columns to read of a file."""
    there = [name for name in dict.fromkeys((*table.names, *partition)) if name]
    wanted = set(optional)
    kept = there if columns is None else list(dict.fromkeys(columns))
    kept = kept + [name for name in there if name in wanted and name not in kept]
    for name in kept:
        if name not in there:
            raise UnimixerError(f"{path}: missing column {name!r}{nearest(name, there)}{table.hint()}")
    twice = next((name for name in kept if name in table.duplicates()), None)
    if twice is not None:
        what = "header" if isinstance(table, CsvFile) else "file"
        raise UnimixerError(f"{path}: the {what} names column {twice!r} twice; every name must be unique")
    if columns is not None and not kept:
        raise UnimixerError(f"{path}: no column that is asked for is there{nearest(next(iter(optional), ''), there)}")
    return kept


def _whole(chunk: Chunk, kept: Sequence[str], partition: Mapping[str, str | None], others: tuple[str, ...]) -> Chunk:
    """Add to a chunk the columns in its path, in their order."""
    frame, source = chunk.frame, chunk.source
    for name, value in partition.items():
        if name not in kept:
            continue
        if name not in frame.columns:
            values = pl.Series(name, [value], dtype=pl.String).new_from_index(0, frame.height)
            frame = frame.with_columns(values) if frame.columns else values.to_frame()
            continue
        expected = pl.Series([value], dtype=pl.String).cast(frame.schema[name], strict=False)
        differs = frame.get_column(name).ne_missing(expected)
        if differs.any():
            row = int(differs.arg_max() or 0)
            raise UnimixerError(
                f"{chunk.at(row)}: {name}={frame.get_column(name)[row]!r}, but the path of the file says {value!r}; "
                "leave the column or the name of the folder out"
            )
    return Chunk(frame.select(kept), source, chunk.first_row, others)
