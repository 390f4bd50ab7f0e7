"""What the server answers instead of scores: a status and one sentence, in one JSON shape."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pydantic_core

from unimixer.errors import UnimixerError
from unimixer.postgres import DatabaseError
from unimixer.serving.stores.base import StoreUnavailableError
from unimixer.serving.stores.records import check_value

_LONG = re.compile(rb"[0-9]{19}")
"""What every integer beyond 64 bits has."""


class HTTPError(UnimixerError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: one sentence.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def refusal(error: UnimixerError) -> HTTPError:
    """Any mistake as a refusal: a store or a database that is down is ours (503), all else is the caller's (422)."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, StoreUnavailableError | DatabaseError):
        return HTTPError(503, str(error), retry_after=1)
    return HTTPError(422, " ".join(str(error).split()))


def json_kind(value: Any) -> str:
    """Name the kind of a value of JSON, for a message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        HTTPError: it is none, or a field occurs twice in an object; NaN and Infinity are no JSON.
    """
    long = _LONG.search(body) is not None
    try:
        # the faster of two readers, which makes floats of integers beyond 64 bits and tells less of mistakes
        found = _careful(body) if long else orjson.loads(body)
    except orjson.JSONDecodeError:
        found = _careful(body)
    if not isinstance(found, dict):
        raise HTTPError(422, f"the body is {json_kind(found)}, expected an object")
    if long:
        _check_integers(found, "")
    try:
        if body.count(b":") != _num_fields(found):  # as where all fields differ and no text has a colon
            json.loads(body, object_pairs_hook=_different)
    except RecursionError:
        raise HTTPError(
            400, "the body is nested too deeply; an object of columns has single values and lists"
        ) from None
    return found


def _num_fields(value: dict[str, Any] | list[Any]) -> int:
    """Count the fields of an object and of all objects in it."""
    inner = list(value.values()) if isinstance(value, dict) else value
    own = len(value) if isinstance(value, dict) else 0
    if {dict, list}.isdisjoint(map(type, inner)):
        return own
    return own + sum(_num_fields(one) for one in inner if isinstance(one, dict | list))


def _different(fields: list[tuple[str, Any]]) -> None:
    """Refuse an object that has a field twice: readers of JSON take the last one in silence."""
    names = set[str]()
    for name, _ in fields:
        if name in names:
            raise HTTPError(422, f"the field {name[:100]!r} occurs twice in one object; send it once")
        names.add(name)


def _careful(body: bytes) -> Any:
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise HTTPError(400, f"the body is not JSON: {error}") from None


def _check_integers(value: Any, where: str) -> None:
    """Refuse integers beyond 64 bits wherever they stand: no column holds them, and the longest have no text."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_integers(inner, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_integers(inner, f"{where}[{number}]")
    elif isinstance(value, int):
        check_value(value, where[:200])
