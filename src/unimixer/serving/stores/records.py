"""Convert raw rows of users and items to JSON values with column types, and back to frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from unimixer.data.raw.values import as_text
from unimixer.errors import UnimixerError

Row = dict[str, Any]
Columns = dict[str, str]
"""Names of column types by column."""

_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "null": pl.Null,
    "text": pl.String,
    "integer": pl.Int64,
    "number": pl.Float64,
    "number32": pl.Float32,
    "boolean": pl.Boolean,
}
_LIST = "list of "
_NUMBERS = ("integer", "number", "number32")
LAST_INTEGER = 2**63 - 1
MAX_KEY, MAX_TEXT, MAX_LIST = 1_000, 100_000, 10_000
"""Limits of a value in a request or a row: characters of a key, characters of any other text, entries of a list."""
LAST_EXACT = 2**53
"""Largest integer up to which floats are exact."""


@dataclass(frozen=True)
class Record:
    """Hold one stored row: the revision of its last change, and its values as JSON."""

    revision: int
    data: str

    @cached_property
    def values(self) -> Row:
        """The values by column."""
        row: Row = json.loads(self.data)
        return row


def dtype_of(kind: str) -> Any:
    """Return the polars type with a name."""
    return pl.List(dtype_of(kind.removeprefix(_LIST))) if kind.startswith(_LIST) else _TYPES[kind]


def kind_of(dtype: Any) -> str:
    """Return the name of a polars type; a type without a JSON form is stored as text."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return _LIST + kind_of(dtype.inner)
    if dtype.is_integer() and dtype != pl.UInt64:
        return "integer"
    return next((name for name, known in _TYPES.items() if dtype == known), "text")


def typed_table(frame: pl.DataFrame) -> tuple[Columns, pl.DataFrame]:
    """Return the stored column types of a raw table, and the table cast to them."""
    columns = {name: kind_of(dtype) for name, dtype in frame.schema.items()}
    typed = frame.select(pl.col(name).cast(dtype_of(kind)) for name, kind in columns.items())
    # JSON has no NaN
    return columns, typed.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def dumps(values: Mapping[str, Any]) -> str:
    """Write values as JSON without the null ones."""
    return json.dumps({name: value for name, value in values.items() if value is not None}, separators=(",", ":"))


def frame_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> pl.DataFrame:
    """Convert stored rows to a frame, with null for a column that a row lacks."""
    return pl.DataFrame(
        [
            pl.Series(name, [row.get(name) for row in rows], dtype=dtype_of(kind), strict=False)
            for name, kind in columns.items()
        ]
    )


def series_of(name: str, values: Sequence[Any], where: str = "rows", numbers: Sequence[int] | None = None) -> pl.Series:
    """Convert plain JSON values to a column of the narrowest type that holds all of them.

    Args:
        name: name of the column.
        values: one value per row, valid for :func:`check_value`.
        where: name of the rows in messages.
        numbers: row numbers, counted from 0 (default: 0, 1, 2, ...).

    Raises:
        UnimixerError: some rows have lists and others have single values, or no column can hold the values.
    """
    rows = list(range(len(values))) if numbers is None else list(numbers)
    try:
        series = _series(name, values)
        if series.null_count() == sum(value is None for value in values):
            return series
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        pass  # the code below finds the first invalid row
    for row, value in zip(rows, values, strict=True):
        check_value(value, f"{where}, row {row + 1}: {name}")
    for kind, one, other, many in (
        (list, "a list", "a single value", "lists"),
        (bool, "a boolean", "none", "booleans"),
    ):
        backwards = zip(rows[::-1], values[::-1], strict=True)
        first = {isinstance(value, kind): row for row, value in backwards if value is not None}
        if len(first) == 2:
            raise UnimixerError(
                f"{where}, row {first[True] + 1}: {name} is {one}, but in row {first[False] + 1} it is {other}; "
                f"send {many} in all rows, or in none"
            )
    raise UnimixerError(f"{where}: {name} has values that no column can hold")


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {_kind(value) for value in values} - {"null"}
    if 0 < sum(kind.startswith(_LIST) for kind in kinds) < len(kinds):
        raise TypeError("lists and single values")
    if "boolean" in kinds and len(kinds) > 1:
        raise TypeError("booleans and other values")
    kind = _common(kinds) if kinds else "null"
    if kind == "number" and any(type(value) is int and abs(value) > LAST_EXACT for value in values):
        kind = "text"  # a float would lose the last digits of an id
    if kind != "text" or kinds == {"text"}:
        return pl.Series(name, values, dtype=dtype_of(kind), strict=False)
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def fit_columns(known: Columns, rows: Iterable[Mapping[str, Any]], *, where: str) -> tuple[Columns, list[Row]]:
    """Convert new rows to the types of the known columns, and add or widen columns where needed.

    Raises:
        UnimixerError: a value does not fit the type of its column.
    """
    columns, fitted, rows = dict(known), [], list(rows)
    for number, row in enumerate(rows):
        for name, value in row.items():
            check_value(value, f"{where}, row {number + 1}: {name}")
    for name in {name: None for row in rows for name in row}:
        kinds = {_kind(row[name]) for row in rows if name in row} - {"null"}
        if columns.get(name, "null") in ("null", _LIST + "null"):
            columns[name] = _common(kinds) if kinds else columns.get(name, "null")
        elif columns[name] == "integer" and kinds & {"number"}:
            columns[name] = "number"  # an integer has the same JSON text in both
    for number, row in enumerate(rows):
        fitted.append({n: _fit(v, columns[n], f"{where}, row {number + 1}: {n}") for n, v in row.items()})
    return columns, fitted


def check_value(value: Any, where: str) -> None:
    """Raise if no column can hold a JSON value: not finite, beyond 64 bits, invalid Unicode, too long, or nested."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise UnimixerError(f"{where}: the text has {len(value):,} characters, at most {MAX_TEXT:,} are allowed")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UnimixerError(f"{where}: the text is not valid Unicode; send valid text") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UnimixerError(f"{where}: {value} is not a finite number; send null if the value is unknown")
    elif isinstance(value, int):
        if abs(value) > LAST_INTEGER:
            raise UnimixerError(f"{where}: the integer does not fit 64 bits; send large keys as text")
    elif isinstance(value, list):
        if len(value) > MAX_LIST:
            raise UnimixerError(f"{where}: the list has {len(value):,} entries, at most {MAX_LIST:,} are allowed")
        for entry in value:
            if isinstance(entry, (list, dict)):
                raise UnimixerError(f"{where}: expected a single value or a list of single values")
            check_value(entry, where)
        kinds = {_kind(entry) for entry in value} - {"null"}
        if len(kinds) > 1 and not kinds <= set(_NUMBERS):
            raise UnimixerError(
                f"{where}: the values of a list must have one type, found {' and '.join(sorted(kinds))}"
            )
    elif value is not None:
        raise UnimixerError(f"{where}: expected a single value or a list of single values")


def check_key(value: Any, where: str) -> None:
    """Raise if a value is not a key: a key is an integer, or a text of limited length."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UnimixerError(f"{where}: a key must be text or an integer, found {_shape(value)}")
    check_value(value, where)
    if isinstance(value, str):
        check_length(value, where)


def check_length(key: str, where: str) -> None:
    """Raise if a key is too long."""
    if len(key) > MAX_KEY:
        raise UnimixerError(f"{where}: the key has {len(key):,} characters, at most {MAX_KEY:,} are allowed")


def canonical(keys: Sequence[Any]) -> list[str | None]:
    """Convert keys to the form of the tables: 3, 3.0 and "3.0" are one key; a missing key is null.

    Raises:
        UnimixerError: a key is a list or an object.
    """
    for number, key in enumerate(keys, 1):
        if isinstance(key, (list, dict)):
            raise UnimixerError(f"row {number}: a key must be text or an integer, found {_shape(key)}")
    return as_text(series_of("key", keys)).cast(pl.String).to_list()


def _shape(value: Any) -> str:
    names = {bool: "true or false", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        raise TypeError("no column can hold objects")
    if isinstance(value, list):
        return _LIST + _common({_kind(entry) for entry in value} - {"null"} or {"null"})
    names = {bool: "boolean", int: "integer", float: "number", str: "text", type(None): "null"}
    return names.get(type(value), "text")


def _common(kinds: set[str]) -> str:
    """Return the narrowest type that holds all values of a column."""
    lists = {kind for kind in kinds if kind.startswith(_LIST)}
    if lists:
        inner = {kind.removeprefix(_LIST) for kind in kinds} - {"null"}
        return _LIST + (_common(inner) if inner else "null")
    if len(kinds) == 1:
        return next(iter(kinds))
    return "number" if kinds <= set(_NUMBERS) else "text"


def _text(value: Any) -> str:
    """Convert a value to text, for a column of mixed types."""
    if isinstance(value, str):
        return value
    text: str | None = as_text(pl.Series([value])).cast(pl.String)[0]
    return text or ""


def _fit(value: Any, kind: str, where: str) -> Any:
    """Convert a JSON value to the type of its column."""
    if value is None:
        return None
    if kind.startswith(_LIST):
        if not isinstance(value, list):
            raise UnimixerError(f"{where}={value!r} is not a list, but the column holds lists")
        inner = kind.removeprefix(_LIST)
        return [_fit(entry, inner, where) for entry in value]
    if isinstance(value, list):
        raise UnimixerError(f"{where} is a list, but the column holds single values")
    if kind == "text":
        return _text(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind in _NUMBERS and isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind != "integer" and isinstance(value, int) and abs(value) > LAST_EXACT:
            raise UnimixerError(f"{where}={value} loses its last digits in the column, which holds floats")
        return value
    raise UnimixerError(f"{where}={value!r} does not fit the column, which holds values of type {kind}")
