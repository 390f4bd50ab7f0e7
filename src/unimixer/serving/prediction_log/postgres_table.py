"""Define the table of a prediction log in PostgreSQL, one row per answer, and encode rows for COPY in binary form.

The driver converts every number of every candidate separately, in the interpreter that also serves requests. Here,
whole NumPy arrays become bytes at once.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.postgres import Address, limit_statements
from unimixer.serving.prediction_log.record import Entry, PredictionRecord, call_text

if TYPE_CHECKING:
    import psycopg

TABLE = "prediction_log"
VERSION = 1
COLUMNS = {
    "writer": "uuid NOT NULL",
    "number": "bigint NOT NULL",
    "request_id": "text NOT NULL",
    "answered_at": "timestamp with time zone NOT NULL",
    "time_ms": "bigint NOT NULL",
    "model_version": "text NOT NULL",
    "user_id": "text",
    "user_revision": "bigint NOT NULL",
    "call": "jsonb NOT NULL",
    "items": "text[] NOT NULL",
    "item_revisions": "bigint[] NOT NULL",
    "tasks": "text[] NOT NULL",
    "scores": "real[] NOT NULL",
    "fields": "text[] NOT NULL",
    "hashes": "bigint[] NOT NULL",
}
"""``user`` is a reserved word, hence ``user_id``. ``scores`` has one row per task. ``hashes`` are unsigned 64-bit
numbers reinterpreted as signed ones: they are only compared, PostgreSQL has no unsigned type, numeric is larger and
slower, and a bytea has no elements that match those of ``fields``."""
INDEXES = ("answered_at", "user_id, answered_at", "request_id")
_KEY = "writer, number"
_QUERY = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_TEXT, _BIGINT, _REAL = 25, 20, 700
"""PostgreSQL's ids of the element types."""
_EPOCH_MS = 946_684_800_000
"""PostgreSQL's epoch, 2000-01-01, in ms since 1970."""
_MARK = "\N{SYMBOL FOR NULL}"


def identifier(address: Address, module: Any) -> str:
    """Return the quoted name of the table."""
    name: str = module.sql.Identifier(*address.table).as_string(None)
    return name


def ensure_table(connection: psycopg.Connection[Any], address: Address, table: str) -> None:
    """Create the table if it does not exist.

    Raises:
        UnimixerError: the existing table has other columns or another version.
        psycopg.Error: the database refuses.
    """
    with connection.transaction():
        limit_statements(connection)
        # of servers that start together, one creates the table while the others wait
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", ["unimixer " + table])
        if not _columns(connection, table):
            lines = [f"{name} {kind}" for name, kind in COLUMNS.items()]
            connection.execute(f"CREATE TABLE {table} ({', '.join(lines)}, PRIMARY KEY ({_KEY}))")
            for columns in INDEXES:
                connection.execute(f"CREATE INDEX ON {table} ({columns})")
            connection.execute(f"COMMENT ON TABLE {table} IS 'unimixer prediction log, version {VERSION}'")
    check_table(connection, address, table)


def check_table(connection: psycopg.Connection[Any], address: Address, table: str) -> None:
    """Check the version and the columns of the table; additional columns with a default are allowed.

    Raises:
        UnimixerError: a column is missing or has another type, or an additional column has no default.
    """
    columns = _columns(connection, table)
    if not columns:
        raise UnimixerError(f"{address.name}: no prediction log; there is no table {table}")
    problem = ""
    for name, kind in COLUMNS.items():
        expected = kind.removesuffix(" NOT NULL")
        if name not in columns:
            problem = problem or f"column {name!r} is missing"
        elif columns[name][0] != expected:
            problem = problem or f"column {name!r} is {columns[name][0]}, expected {expected}"
    for name, (_, required) in columns.items():
        if required and name not in COLUMNS:
            problem = problem or f"column {name!r} is unknown and has no default"
    version = _version(connection, table)
    if version not in (None, VERSION):
        problem = f"it has version {version}, this program writes and reads {VERSION}"
    if problem:
        raise UnimixerError(
            f"{address.name}: table {table} is not a prediction log of this version: {problem}; rename it, or name "
            "another table with ?table=NAME"
        )


def _columns(connection: psycopg.Connection[Any], table: str) -> dict[str, tuple[str, bool]]:
    return {name: (kind, required) for name, kind, required in connection.execute(_QUERY, [table])}


def _version(connection: psycopg.Connection[Any], table: str) -> int | None:
    row = connection.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [table]).fetchone()
    version = re.search(r"prediction log, version (\d+)", (row and row[0]) or "")
    return int(version[1]) if version else None


def row_bytes(writer: UUID, entry: Entry[PredictionRecord]) -> bytes:
    """Encode one row, with its columns in the order of :data:`COLUMNS`.

    Raises:
        ValueError, TypeError, struct.error: a value does not fit its column.
    """
    answer = entry.answer
    hashes = np.asarray(list(answer.hashes.values()), dtype=np.uint64).view(np.int64)
    cells = [
        writer.bytes,
        _bigint(entry.number),
        _text(answer.request_id),
        _bigint((answer.answered_ms - _EPOCH_MS) * 1000),
        _bigint(answer.time_ms),
        _text(answer.model_version),
        None if answer.user is None else _text(answer.user),
        _bigint(answer.user_revision),
        b"\1" + _call(entry).encode(),
        _texts(answer.items),
        _numbers(answer.item_revisions, ">i8", _BIGINT),
        _texts(answer.tasks),
        _numbers(answer.scores.T, ">f4", _REAL),
        _texts(list(answer.hashes)),
        _numbers(hashes, ">i8", _BIGINT),
    ]
    parts = [struct.pack(">h", len(cells))]
    for cell in cells:
        parts.append(_NULL if cell is None else struct.pack(">i", len(cell)) + cell)
    return b"".join(parts)


def escape(text: str) -> str:
    r"""Escape NUL, which PostgreSQL's text cannot hold: ``\0`` becomes ``␀0``, and ``␀`` becomes ``␀1``."""
    return text.replace(_MARK, _MARK + "1").replace("\0", _MARK + "0") if "\0" in text or _MARK in text else text


def restore(text: str) -> str:
    """Reverse :func:`escape`."""
    return re.sub(_MARK + "[01]", lambda mark: "\0" if mark[0][1] == "0" else _MARK, text) if _MARK in text else text


def deep(change: Callable[[str], str], value: Any) -> Any:
    """Apply ``change`` to all texts of a JSON value."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): deep(change, entry) for name, entry in value.items()}
    return [deep(change, entry) for entry in value] if isinstance(value, list) else value


def read_call(text: str) -> dict[str, Any]:
    """Parse the call of a row. JSONB writes 1e22 as an integer, so integers beyond 64 bits become floats again."""
    call = json.loads(text, parse_int=lambda digits: int(digits) if abs(int(digits)) < 2**63 else float(digits))
    restored: dict[str, Any] = deep(restore, call)
    return restored


def _call(entry: Entry[PredictionRecord]) -> str:
    text = call_text(entry.answer.call)
    if "\\u0000" not in text and "\\u2400" not in text:
        return text
    return json.dumps(deep(escape, json.loads(text)))


def _bigint(number: int) -> bytes:
    return struct.pack(">q", number)


def _text(text: str) -> bytes:
    return escape(text).encode()


def _texts(texts: Sequence[str | None]) -> bytes:
    joined = "".join(text for text in texts if text is not None)
    plain = "\0" not in joined and _MARK not in joined
    cells: Iterable[bytes | None] = (
        None if text is None else text.encode() if plain else escape(text).encode() for text in texts
    )
    body = b"".join(_NULL if cell is None else len(cell).to_bytes(4, "big") + cell for cell in cells)
    return _array((len(texts),), _TEXT, body, nulls=None in texts)


def _numbers(values: NDArray[Any], dtype: str, element: int) -> bytes:
    cells = np.empty(values.size, dtype=[("size", ">i4"), ("value", dtype)])
    cells["size"], cells["value"] = cells.dtype["value"].itemsize, values.ravel()
    return _array(values.shape, element, cells.tobytes())


def _array(shape: tuple[int, ...], element: int, body: bytes, nulls: bool = False) -> bytes:
    if not body:
        return struct.pack(">iii", 0, 0, element)
    head = struct.pack(">iii", len(shape), int(nulls), element)
    return head + b"".join(struct.pack(">ii", size, 1) for size in shape) + body
