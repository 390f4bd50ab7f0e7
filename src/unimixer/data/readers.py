"""Raw files as streams of chunks: text from CSV, types from Parquet, and the row number of every mistake."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from unimixer.data.row_groups import runs_of_groups
from unimixer.data.tables import CHUNK_ROWS, WHOLE, Chunk, Placed
from unimixer.errors import UnimixerError, nearest

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)

_BLOCK_BYTES = 4 << 20
"""Bytes of CSV that are parsed at once; one row must fit. Measured: 1 MiB and 16 MiB are slower."""
_TAIL_BYTES = 4
"""Enough for a closing quote and the line end."""


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
    share: range = WHOLE,
    *,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    header: Sequence[str] | None = None,
    encoding: str = "utf-8",
    quote: str | None = '"',
) -> Iterator[Placed]:
    """Stream a share of the rows of some files, one after the other; other pieces come without their rows.

    Columns of CSV files (also gzipped) are text, an empty field is the empty text; Parquet keeps its types. Memory does
    not depend on the number of rows: CSV is parsed in blocks of 4 MiB, Parquet in batches of ``CHUNK_ROWS`` rows.

    A piece of CSV is a chunk, and those of others are parsed and dropped, because only a parser knows where a row ends.
    A piece of Parquet is a run of row groups of about ``CHUNK_ROWS`` rows, and those of others are not read.

    Args:
        paths: files with the same columns; rows are numbered within each.
        share: the pieces to read.
        columns: columns to read, in this order (default: those of the first file).
        separator: what stands between two fields of CSV (default: a tab in ``.tsv`` files, else a comma).
        header: names of the columns of CSV files without a header line.
        encoding: encoding of CSV files.
        quote: character around CSV fields that hold a separator; ``None`` where quotes are ordinary characters.

    Raises:
        UnimixerError: a file is missing, empty, of an unknown kind, lacks a column or has a malformed row; or there is
            no row in any of them.
    """
    piece, rows = 0, 0
    for path in paths:
        if is_parquet(path):
            names, placed = _open_parquet(path, columns, share, piece)
        else:
            names, chunks = _open_csv(path, columns, separator or default_separator(path), header, encoding, quote)
            placed = ((number, chunk.frame.height, chunk) for number, chunk in enumerate(chunks, piece))
        columns = columns or names
        for piece, height, chunk in placed:
            yield Placed(piece, rows, height, chunk)
            rows += height
        piece += 1
    if rows == 0:
        raise UnimixerError(f"{', '.join(map(str, paths)) or 'no file'}: no rows, expected at least one")


def read_table(path: Path, **options: Any) -> Chunk:
    """Read a whole file, such as a table of users; ``options`` are those of :func:`read_chunks`."""
    frames = [chunk.frame for chunk in read_chunks([path], **options)]
    return Chunk(pl.concat(frames), source=str(path))


def find_files(folder: Path, pattern: str | Sequence[str], what: str) -> list[Path]:
    """The files of a folder that match a pattern, numbers in names in their natural order.

    Args:
        folder: where to look; not below it.
        pattern: one or several glob patterns.
        what: what the files are, for the message.

    Raises:
        UnimixerError: the folder does not exist or nothing matches; it lists what was looked for and what is there.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not folder.is_dir():
        raise UnimixerError(f"{folder}: no such folder; expected the folder with {what} ({', '.join(patterns)})")
    found = {path for one in patterns for path in folder.glob(one) if not path.name.startswith((".", "_"))}
    if not found:
        there = sorted(path.name for path in folder.iterdir())
        listing = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
        raise UnimixerError(
            f"{folder}: no {what}; looked for {', '.join(patterns)}, found {listing or 'an empty folder'}"
        )
    return sorted(found, key=_natural)


def is_parquet(path: Path) -> bool:
    """Whether a name is that of a Parquet file; raises where it is that of no table at all."""
    name = path.name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return True
    if name.endswith(CSV_SUFFIXES):
        return False
    raise UnimixerError(f"{path}: not a table; its name must end with one of {', '.join(TABLE_SUFFIXES)}")


def default_separator(path: Path) -> str:
    """The separator that the name of a CSV file tells."""
    return "\t" if ".tsv" in path.name.lower() else ","


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


# --- CSV --------------------------------------------------------------------------------------------------------------


class _Tail(io.RawIOBase):
    """A byte stream that remembers its last bytes, to tell a quote that was closed from one that never was."""

    def __init__(self, path: Path) -> None:
        self.stream, self.last = pa.input_stream(str(path)), b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(None if size < 0 else size)
        self.last = (self.last + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return data


def _open_csv(
    path: Path,
    columns: Sequence[str] | None,
    separator: str,
    header: Sequence[str] | None,
    encoding: str,
    quote: str | None,
) -> tuple[list[str], Iterator[Chunk]]:
    _check_file(path)
    names = list(header) if header is not None else _header(path, separator, encoding, quote)
    kept = _known(path, columns, names)
    return kept, _csv_chunks(path, names, kept, separator, header is None, encoding, quote)


def _csv_chunks(
    path: Path, names: list[str], kept: list[str], separator: str, skip_header: bool, encoding: str, quote: str | None
) -> Iterator[Chunk]:
    wrong: list[Any] = []

    def remember(row: Any) -> str:
        wrong.append(row)
        return "error"

    rows, text, tail = 0, pl.DataFrame(), _Tail(path)
    try:
        reader = arrow_csv.open_csv(
            pa.PythonFile(tail, mode="r"),
            # one thread: three times as fast here as a pool, and malformed rows are numbered
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                encoding=encoding,
                column_names=names,
                skip_rows=0,
                skip_rows_after_names=int(skip_header),
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator,
                quote_char=quote or False,
                newlines_in_values=quote is not None,
                ignore_empty_lines=len(names) > 1,
                invalid_row_handler=remember,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, include_columns=kept
            ),
        )
        for batch in reader:
            for start in range(0, batch.num_rows, CHUNK_ROWS):
                text = _frame(pa.Table.from_batches([batch.slice(start, CHUNK_ROWS)]))
                yield Chunk(text, source=str(path), first_row=rows + 1)
                rows += text.height
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError, EOFError) as error:
        if wrong:
            row = wrong[0]
            raise UnimixerError(
                f"{path}, row {row.number - int(skip_header)}: expected {row.expected_columns} fields, found "
                f"{row.actual_columns} ({_short(row.text)}); correct the row, or quote fields that hold {separator!r}"
            ) from None
        if "UTF8" in str(error):
            raise UnimixerError(f"{path}, line {_bad_line(path)}: not UTF-8 text; convert the file to UTF-8") from None
        raise UnimixerError(f"{path}, after row {rows}: cannot be read: {_reason(error)}") from None
    if quote is not None and rows and "\n" in str(text[-1, -1]) and not tail.last.rstrip().endswith(quote.encode()):
        raise UnimixerError(f"{path}, row {rows}: a quote {quote} opens here and is never closed; correct the row")


def _header(path: Path, separator: str, encoding: str, quote: str | None) -> list[str]:
    _check_file(path)
    try:
        # bytes that are no text may stand in any later row of the first block; their row is named when it is read
        stream = pa.input_stream(str(path))
        with io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="") as lines:
            names = next(csv.reader(lines, delimiter=separator, quotechar=quote, quoting=0 if quote else 3), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnimixerError(f"{path}: the header cannot be read: {_reason(error)}") from None
    names = [name.removeprefix("\ufeff") for name in names]
    if "\ufffd" in "".join(names):
        raise UnimixerError(f"{path}: the header is not {encoding} text; convert the file to UTF-8")
    if not any(names):
        raise UnimixerError(f"{path}: the first line is empty, expected the names of the columns")
    for name in names:
        if names.count(name) > 1:
            raise UnimixerError(f"{path}: the header names column {name!r} twice; every name must be unique")
    return names


def _bad_line(path: Path) -> int:
    """Number of the first line, counted from 1, that is not UTF-8."""
    with io.TextIOWrapper(pa.input_stream(str(path)), encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return next((n for n, line in enumerate(lines, 1) if any("\udc80" <= c <= "\udcff" for c in line)), 0)


def _check_file(path: Path) -> None:
    if not path.exists():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UnimixerError(f"{path}: no such file{nearest(path.name, there) if len(there) < 20 else ''}")
    if path.is_dir():
        raise UnimixerError(f"{path}: is a folder, expected a file")
    if path.stat().st_size == 0:
        raise UnimixerError(f"{path}: the file is empty; expected a table with at least one row")


def _known(path: Path, columns: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    for name in columns or ():
        if name not in names:
            raise UnimixerError(f"{path}: missing column {name!r}{nearest(name, names)}")
    return list(columns if columns is not None else names)


def _frame(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _short(text: object) -> str:
    line = str(text)
    return line if len(line) <= 60 else line[:57] + "..."


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _open_parquet(
    path: Path, columns: Sequence[str] | None, share: range, piece: int
) -> tuple[list[str], Iterator[tuple[int, int, Chunk | None]]]:
    file = _parquet_file(path)
    kept = _known(path, columns, file.schema_arrow.names)
    return kept, _parquet_chunks(path, file, kept, share, piece)


def _parquet_chunks(
    path: Path, file: Any, kept: list[str], share: range, piece: int
) -> Iterator[tuple[int, int, Chunk | None]]:
    rows = 0
    try:
        for number, (groups, height) in enumerate(runs_of_groups(file.metadata), piece):
            if number not in share:
                yield number, height, None
                rows += height
                continue
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, row_groups=groups, columns=kept):
                frame = _frame(pa.Table.from_batches([batch])).select(kept)
                yield number, frame.height, Chunk(frame, source=str(path), first_row=rows + 1)
                rows += frame.height
    except (pa.ArrowException, OSError) as error:
        raise UnimixerError(f"{path}, after row {rows}: cannot be read: {_reason(error)}") from None


def _parquet_file(path: Path) -> Any:
    _check_file(path)
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UnimixerError(f"{path}: not a Parquet file: {_reason(error)}") from None
