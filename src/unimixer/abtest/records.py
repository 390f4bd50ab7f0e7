"""Define the rows of the event tables, and read them from plain values: a request, or a row of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

from unimixer.abtest.canonical import canonical_text, is_id
from unimixer.errors import UnimixerError, nearest

MAX_TEXT = 500
"""Largest number of bytes of an id or a name, which an index of PostgreSQL must hold."""
MAX_JSON = 1 << 22
"""Largest number of bytes of positions and of a context."""
_FIRST_US, _LAST_US = 946_684_800_000_000, 7_258_118_400_000_000
"""2000 and 2200: other numbers are times in another unit."""
_LARGEST = 1e50
"""Largest size of a value: sums of its squares stay numbers."""
Row = TypeVar("Row", bound=NamedTuple)


class Exposure(NamedTuple):
    """A unit saw what an arm ranked, or a shadow arm ranked for it; one row a request."""

    experiment: str
    version: int
    unit: str
    arm: str
    time: int
    request_id: str
    bundle: str = ""
    propensity: float | None = None
    shadow: int = 0
    positions: str = "[]"
    """JSON: the items in the order shown."""
    context: str = "{}"
    """JSON: the columns of the context that targeting and segments name."""


class Outcome(NamedTuple):
    """What a unit did."""

    event_id: str
    unit: str
    event: str
    value: float
    time: int
    received: int
    request_id: str | None = None
    item: str | None = None


class Covariate(NamedTuple):
    """A value of a unit from before the start."""

    experiment: str
    unit: str
    name: str
    value: float


def read_row(kind: type[Row], values: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> Row:
    """Read a row from plain values; those of ``defaults`` may be missing.

    Raises:
        UnimixerError: a value is missing, unknown, or does not fit.
    """
    for name in values:
        if name not in kind._fields:
            raise UnimixerError(f"{where}: unknown field {name!r}{nearest(name, kind._fields)}")
    known = {**kind._field_defaults, **defaults}
    read = []
    for name in kind._fields:
        value = values.get(name)
        if value is not None:
            read.append(_READERS[name](value, f"{where}.{name}"))
        elif name in known:
            read.append(known[name])
        else:
            raise UnimixerError(f"{where}.{name}: required, but not given")
    return kind(*read)


def time_us(value: Any, where: str) -> int:
    """Read a time: microseconds since 1970, or a text of ISO 8601, in UTC where it names no zone.

    Raises:
        UnimixerError: it is no time, or an integer in another unit.
    """
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("-").isdecimal() else datetime.fromisoformat(value.strip())
        except ValueError:
            raise UnimixerError(f"{where}={value[:40]!r} is no time; write it as 2026-03-01T12:00:00Z") from None
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        value = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnimixerError(
            f"{where}: a time is an integer of microseconds since 1970, or text such as 2026-03-01T12:00Z"
        )
    if not _FIRST_US <= value < _LAST_US:
        raise UnimixerError(
            f"{where}={value} is not between 2000 and 2200 in microseconds since 1970; convert other units"
        )
    return value


def check_text(value: str, where: str, most: int = MAX_TEXT) -> str:
    """Raise if a text is too long, or has characters that a database cannot hold."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UnimixerError(f"{where}: the text is not valid Unicode; send valid text") from None
    if size > most:
        raise UnimixerError(f"{where}: the text has {size:,} bytes, at most {most:,} are allowed")
    if "\0" in value:
        raise UnimixerError(f"{where}: the text has the character NUL, which no database holds; leave it out")
    return value


def _id(value: Any, where: str) -> str:
    if not is_id(value):
        raise UnimixerError(f"{where}: an id is text or an integer, found {value!r:.40}")
    text = canonical_text(value)
    if text is None:
        raise UnimixerError(f"{where}: the id is empty; leave out rows without one")
    return check_text(text, where)


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UnimixerError(f"{where}: expected a text, found {value!r:.40}")
    return check_text(value, where)


def check_json(value: Any, where: str, kind: type[list[Any] | dict[str, Any]]) -> str:
    """Raise if a value is not JSON of a kind, as text that a database can read: one such row would spoil readings."""
    try:
        found = json.loads(value, parse_constant=_no_constant)
        if "\\u" in value:
            json.dumps(found, ensure_ascii=False).encode()  # fails for half a character
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(value, str) or not isinstance(found, kind):
        name = "list" if kind is list else "object"
        raise UnimixerError(f"{where}: expected a JSON {name} as text, found {value!r:.40}")
    if "\\u0000" in value:
        raise UnimixerError(f"{where}: a text in it has the character NUL, which no database holds; leave it out")
    return check_text(value, where, MAX_JSON)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnimixerError(f"{where}: expected a finite number, found {value!r:.40}")
    if abs(value) > _LARGEST:
        raise UnimixerError(f"{where}: expected a number of at most 1e50 in size, found {value!r:.40}")
    return float(value)


def _probability(value: Any, where: str) -> float:
    number = _number(value, where)
    if not 0 <= number <= 1:
        raise UnimixerError(f"{where}: expected a probability from 0 to 1, found {value!r:.40}")
    return number


def _integer(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer() or not 0 <= number < 2**31:
        raise UnimixerError(f"{where}: expected a whole number from 0, found {value!r:.40}")
    return int(number)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "experiment": _name,
    "version": _integer,
    "unit": _id,
    "arm": _name,
    "time": time_us,
    "received": time_us,
    "request_id": _id,
    "bundle": _name,
    "propensity": _probability,
    "shadow": _integer,
    "positions": partial(check_json, kind=list),
    "context": partial(check_json, kind=dict),
    "event_id": _id,
    "event": _name,
    "value": _number,
    "item": _id,
    "name": _name,
}
"""How a value is read, by column: one name has one meaning in every table."""
