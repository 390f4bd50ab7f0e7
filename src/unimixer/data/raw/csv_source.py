"""Read a CSV file as the bytes that the parser accepts: UTF-8, with one byte between two fields."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Any

import pyarrow as pa

UNIT = "\x1f"
"""ASCII's separator of units takes the place of a separator of several characters."""
_TAIL_BYTES = 4
"""Enough for a closing quote and the line end."""


class CsvSource(io.RawIOBase):
    """A CSV file whose text becomes UTF-8 and whose separator becomes one byte while it is read.

    It remembers its last bytes, to tell a quote that was closed from one that never was, and the first row that did not
    fit. All that the parser holds of Python is this object, so that it can be waited for.
    """

    def __init__(self, path: Path, separator: str, encoding: str, *, errors: str = "strict") -> None:
        self.stream = pa.input_stream(str(path))
        self.tail = b""
        self.wrong: tuple[int, int, int, str] | None = None
        self._separator = separator.encode()
        self.delimiter = UNIT if len(self._separator) > 1 else separator
        plain = codecs.lookup(encoding).name == "utf-8"
        self._decoder = None if plain else codecs.getincrementaldecoder(encoding)(errors)
        self._held = b""

    def refuse(self, row: Any) -> str:
        """Note a row with another number of fields."""
        self.wrong = row.number, row.expected_columns, row.actual_columns, str(row.text)
        return "error"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            data, ended = self._decoded(size)
            if len(self._separator) > 1:
                data = self._separated(data, ended=ended)
            if data or ended:
                self.tail = (self.tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
                return data

    def _decoded(self, size: int) -> tuple[bytes, bool]:
        """Read bytes of UTF-8, at most ``size`` with those held back, and whether they are the last."""
        if self._decoder is None:
            data: bytes = self.stream.read(None if size < 0 else max(1, size - len(self._held)))
            return data, not data
        data = self.stream.read(None if size < 0 else max(1, (size - len(self._held)) // 4))
        return self._decoder.decode(data, final=not data).encode(), not data

    def _separated(self, data: bytes, *, ended: bool) -> bytes:
        if UNIT.encode() in data:
            raise OSError(
                f"it holds the control character {UNIT!r}, which replaces the separator of several characters"
            )
        data = (self._held + data).replace(self._separator, UNIT.encode())
        self._held = b""
        for length in range(len(self._separator) - 1, 0, -1):
            if not ended and data.endswith(self._separator[:length]):
                data, self._held = data[:-length], data[-length:]
                break
        return data
