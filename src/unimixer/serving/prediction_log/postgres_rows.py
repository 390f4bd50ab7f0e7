"""Answers in the binary form of PostgreSQL's COPY.

The driver would convert every number of every candidate by itself, in the interpreter that serves requests meanwhile;
here an array of numpy is turned into bytes at once.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from unimixer.serving.prediction_log.record import Entry, call_text

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_TEXT, _BIGINT, _REAL = 25, 20, 700
"""Numbers of the types of elements."""
_EPOCH_MS = 946_684_800_000
"""2000-01-01, from which PostgreSQL counts, in ms since 1970."""
_MARK = "\N{SYMBOL FOR NULL}"


def row_bytes(writer: UUID, entry: Entry) -> bytes:
    """One row, its columns in the order of :data:`unimixer.serving.prediction_log.postgres_table.COLUMNS`.

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
    r"""Text without NUL, which PostgreSQL's text cannot hold: ``\0`` becomes ``␀0``, and ``␀`` itself ``␀1``."""
    return text.replace(_MARK, _MARK + "1").replace("\0", _MARK + "0") if "\0" in text or _MARK in text else text


def restore(text: str) -> str:
    """The text that :func:`escape` was given."""
    return re.sub(_MARK + "[01]", lambda found: "\0" if found[0][1] == "0" else _MARK, text) if _MARK in text else text


def deep(change: Callable[[str], str], value: Any) -> Any:
    """A JSON value with all of its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): deep(change, entry) for name, entry in value.items()}
    return [deep(change, entry) for entry in value] if isinstance(value, list) else value


def read_call(text: str) -> dict[str, Any]:
    """The call of a row. JSONB writes 1e22 as an integer; what does not fit 64 bits was a float."""
    call = json.loads(text, parse_int=lambda digits: int(digits) if abs(int(digits)) < 2**63 else float(digits))
    found: dict[str, Any] = deep(restore, call)
    return found


def _call(entry: Entry) -> str:
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
