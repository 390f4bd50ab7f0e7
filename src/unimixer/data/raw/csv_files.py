"""One CSV file: its bytes as UTF-8 with a separator of one character, its header, its rows as chunks of text."""

from __future__ import annotations

import codecs
import csv
import io
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from unimixer.data.file_settings import Files
from unimixer.data.raw.csv_source import UNIT, CsvSource
from unimixer.data.raw.tables import CHUNK_ROWS, Chunk
from unimixer.errors import UnimixerError

SEPARATORS = (",", "\t", ";", "|", "::")
"""What stands between two fields in most files."""

_BLOCK_BYTES = 4 << 20
"""Bytes of CSV that are parsed at once; one row must fit. Measured: 1 MiB and 16 MiB are slower."""
_VALUE = r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|\d{4}-\d\d-\d\d.*"
"""A number or a date, which is the name of no column."""
_MAGIC = {
    b"PAR1": "a Parquet file; let its name end with .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
}
_GZIP = b"\x1f\x8b"


class CsvFile:
    """A file of text whose header is known.

    Args:
        path: the file.
        files: how it is read.

    Raises:
        UnimixerError: it is no text, or its header names nothing.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self.path, self.files = path, files
        self.separator = files.separator or default_separator(path)
        with path.open("rb") as raw:
            start = raw.read(4)
        kind = next((what for magic, what in _MAGIC.items() if start.startswith(magic)), None)
        if start.startswith(_GZIP) and not path.name.lower().endswith(".gz"):
            kind = "compressed with gzip; let its name end with .gz"
        if kind:
            raise UnimixerError(f"{path}: is {kind}")
        first, second = [*self.lines(2), [], []][:2]
        self.names = list(files.header) if files.header is not None else _names(path, first, files.encoding)
        # of one column an empty line is a row
        self._has_rows = len(self.names) == 1 or bool(second if files.header is None else first)
        if files.header is not None and _is_header(first, second, files.header):
            raise UnimixerError(
                f"{path}: the first line is a header line ({_short(', '.join(first))}), but the names of the columns "
                "are given as 'header' too; leave 'header' out of the schema's 'files'"
            )

    def lines(self, count: int) -> list[list[str]]:
        """Return the fields of the first lines that are not empty."""
        quote, delimiter = self.files.quote, UNIT if len(self.separator) > 1 else self.separator
        try:
            # bytes that are no text may stand in any later row of the first block; their row is named when it is read
            source = CsvSource(self.path, self.separator, self.files.encoding, errors="replace")
            with io.TextIOWrapper(cast(Any, source), encoding="utf-8", errors="replace", newline="") as text:
                rows = csv.reader(
                    text, delimiter=delimiter, quotechar=quote or None, quoting=csv.QUOTE_MINIMAL if quote else 3
                )
                first = next(rows, [])  # names must stand in the very first line
                return [first, *islice((row for row in rows if row), count - 1)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UnimixerError(f"{self.path}: the header cannot be read: {reason(error)}") from None

    def duplicates(self) -> set[str]:
        """Return the names that more than one column has; columns without a name do not count."""
        return {name for name in self.names if name and self.names.count(name) > 1}

    def hint(self) -> str:
        """Return why a column may be missing, for the end of a message."""
        if self.files.header is None and like_values(self.names):
            return (
                "; the first line looks like values: if the file has no header line, "
                "name its columns as 'header' in the schema's 'files'"
            )
        other = next((s for s in SEPARATORS if len(self.names) == 1 and s in self.names[0]), None)
        if other is None:
            return ""
        return (
            f"; the first line holds {other!r}: name it as the 'separator' in the schema's 'files', or as --separator"
        )

    def any_column(self) -> list[str]:
        """Return a column that can be read."""
        return self.names[:1]

    def empty(self, columns: Sequence[str]) -> pl.DataFrame:
        """Return the columns without rows."""
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """The rows."""
        if not self._has_rows:  # the parser refuses a header line without a line end
            return
        places = [self.names.index(name) for name in columns]
        quote = self.files.quote
        # the last column is always read: a quote that is never closed shows there
        read = list(dict.fromkeys([*places, len(self.names) - 1]))
        source = CsvSource(self.path, self.separator, self.files.encoding)
        released = threading.Event()
        weakref.finalize(source, released.set)
        rows, last, reader, problem, whole = 0, "", None, None, False
        try:
            reader = self._open(source, read)
            for batch in reader:
                for start in range(0, batch.num_rows, CHUNK_ROWS):
                    text = self._text(batch.slice(start, CHUNK_ROWS))
                    last = str(text.get_column(str(len(self.names) - 1))[-1])
                    kept = [text.get_column(str(place)).alias(n) for place, n in zip(places, columns, strict=True)]
                    yield Chunk(pl.DataFrame(kept), source=str(self.path), first_row=rows + 1)
                    rows += text.height
            whole = rows > 0
        except (pa.ArrowInvalid, OSError, UnicodeError, EOFError) as error:
            problem = self._refusal(source, rows, error)  # raised when the error, and what its frames hold, is gone
        finally:
            wrong_end = quote != "" and "\n" in last and not source.tail.rstrip().endswith(quote.encode())
            # the thread that reads ahead must let go of the file while there is an interpreter to do it in
            if reader is not None:
                reader.close()
            del source, reader
            released.wait(timeout=20)  # at once, unless the machine is very busy
            if not whole:  # the process may end now, and that thread has a few more objects to let go of
                time.sleep(0.2)
        if problem is None and wrong_end:
            problem = UnimixerError(
                f"{self.path}, row {rows}: a quote {quote} opens here and is never closed; correct the row"
            )
        if problem is not None:
            raise problem

    def _open(self, source: CsvSource, read: Sequence[int]) -> Any:
        header, quote = self.files.header, self.files.quote
        return arrow_csv.open_csv(
            pa.PythonFile(source, mode="r"),
            # one thread: three times as fast here as a pool, and malformed rows are numbered
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=[str(i) for i in range(len(self.names))],
                skip_rows_after_names=int(header is None),
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=source.delimiter,
                quote_char=quote or False,
                newlines_in_values=quote != "",
                ignore_empty_lines=len(self.names) > 1,
                invalid_row_handler=source.refuse,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={str(i): pa.string() for i in read},
                strings_can_be_null=False,
                include_columns=[str(i) for i in read],
            ),
        )

    def _text(self, batch: Any) -> pl.DataFrame:
        frame = pl.from_arrow(pa.Table.from_batches([batch]))
        assert isinstance(frame, pl.DataFrame)
        if len(self.separator) > 1 and self.files.quote:  # fields in quotes may hold it
            frame = frame.with_columns(pl.all().str.replace_all(UNIT, self.separator, literal=True))
        return frame

    def _refusal(self, source: CsvSource, rows: int, error: Exception) -> UnimixerError:
        if source.wrong is not None:
            number, expected, actual, text = source.wrong
            return UnimixerError(
                f"{self.path}, row {number - int(self.files.header is None)}: expected {expected} fields, found "
                f"{actual} ({_short(text.replace(UNIT, self.separator))}); correct the row, or quote fields that hold "
                f"{self.separator!r}"
            )
        if "UTF8" in str(error) or isinstance(error, UnicodeError):
            encoding = self.files.encoding
            name = "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding
            return UnimixerError(
                f"{self.path}, line {self._bad_line()}: not {name} text; convert the file to UTF-8, or name its "
                "'encoding' in the schema's 'files'"
            )
        return UnimixerError(f"{self.path}, after row {rows}: cannot be read: {reason(error)}")

    def _bad_line(self) -> int:
        """Return the number of the first line, counted from 1, that the encoding cannot decode."""
        with io.TextIOWrapper(
            pa.input_stream(str(self.path)), encoding=self.files.encoding, errors="surrogateescape", newline=""
        ) as lines:
            return next((n for n, line in enumerate(lines, 1) if any("\udc80" <= c <= "\udcff" for c in line)), 0)


def default_separator(path: Path) -> str:
    """Return the separator that the name of a CSV file implies."""
    return "\t" if ".tsv" in path.name.lower() else ","


def sniff(path: Path, files: Files) -> Files:
    """Add the separator that cuts the first lines into equally many fields, if none is named."""
    if files.separator is not None:
        return files
    default = default_separator(path)
    widths: dict[str, int] = {}
    for separator in dict.fromkeys((default, *SEPARATORS)):
        try:
            lines = CsvFile(path, files.model_copy(update={"separator": separator, "header": None})).lines(100)
        except UnimixerError:
            if separator == default:
                raise
            continue
        counts = {len(line) for line in lines}
        widths[separator] = counts.pop() if len(counts) == 1 else 0
    best = max(widths, key=lambda separator: widths[separator])  # the default is first, so it wins a tie
    # a default that cuts anything is kept where another is no better than one field: ragged rows are named later
    return files if widths[best] <= 1 or best == default else files.model_copy(update={"separator": best})


def like_values(names: Sequence[str]) -> bool:
    """Return whether a header line looks like the first row: its names are numbers or dates."""
    numbers = [name for name in names if re.fullmatch(_VALUE, name.strip())]
    counted = len(numbers) >= 3 and any(numbers == [str(i + first) for i in range(len(numbers))] for first in (0, 1))
    return bool(numbers) and not counted


def reason(error: Exception) -> str:
    """Return the message of a library in one line."""
    return " ".join(str(error).split()).rstrip(".")


def _names(path: Path, first: list[str], encoding: str) -> list[str]:
    names = [name.removeprefix("\ufeff") for name in first]
    if "\ufffd" in "".join(names):
        raise UnimixerError(
            f"{path}: the header is not {encoding} text; convert the file to UTF-8, or name its 'encoding' in the "
            "schema's 'files'"
        )
    if "\0" in "".join(names):
        raise UnimixerError(f"{path}: the header holds zero bytes, as UTF-16 text does; convert the file to UTF-8")
    if not any(names):
        raise UnimixerError(f"{path}: the first line is empty, expected the names of the columns")
    return names


def _is_header(first: Sequence[str], second: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a first line names columns although their names are given."""
    same = sum(a.strip().lower() == b.lower() for a, b in zip(first, header, strict=False))
    if same * 2 >= max(1, len(header)):
        return True
    numbers = [sum(bool(re.fullmatch(_VALUE, field.strip())) for field in line) for line in (first, second)]
    return numbers[0] == 0 and len(first) == len(header) and numbers[1] * 2 > len(header)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
