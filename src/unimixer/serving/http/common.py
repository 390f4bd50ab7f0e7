"""What routes share: bodies within limits, keys, answers."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import SecretStr

from unimixer.serving.errors import HTTPError

DISCARDED = 64 << 20
"""Bytes of a body over the limit that are read and thrown away, so that its sender gets to read the answer."""


def reply(value: Mapping[str, Any] | bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    body = value if isinstance(value, bytes) else dump(value)
    return Response(body, status, headers, media_type="application/json")


def dump(value: Mapping[str, Any]) -> bytes:
    """JSON; arrays of numpy may stand in it, and a float32 has the digits that tell it from its neighbours."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def refused(request: Request, error: HTTPError) -> Response:
    """A refusal in its one shape; ``error`` is the field that the open inference protocol asks for."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return reply({"error": str(error), "request_id": request.state.request_id}, error.status, headers)


async def read_body(request: Request, limit: int, timeout: float) -> bytes:
    """The body.

    Raises:
        HTTPError: it is too large (413), or does not arrive in time (408).
    """
    size, parts, more = 0, [], True
    try:
        async with asyncio.timeout(timeout):
            while more and size <= DISCARDED:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise HTTPError(400, "the connection ended before the body did")
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if size <= limit:
                    parts.append(part)
    except TimeoutError:
        raise HTTPError(408, f"the body did not arrive within {timeout:g} s") from None
    if size > limit:
        declared = request.headers.get("content-length", "")
        found = f"{int(declared):,}" if declared.isascii() and declared.isdigit() else f"more than {limit:,}"
        raise HTTPError(413, f"the body has {found} bytes, at most {limit:,} are read; send several requests")
    return b"".join(parts)


def check_key(request: Request, expected: SecretStr | None, what: str) -> None:
    """Compare the key of a request in constant time.

    Raises:
        HTTPError: the key is missing or wrong (401).
    """
    if expected is None:
        return
    given = request.headers.get("x-api-key", "")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = token.strip()
    if not hmac.compare_digest(given.encode(), expected.get_secret_value().encode()):
        state = "wrong" if given else "missing"
        raise HTTPError(401, f"the {what} key is {state}; send it as Authorization: Bearer KEY or as X-API-Key")


def deadline(request: Request, timeout: float) -> float:
    """When the answer is due, counted from the request's arrival."""
    arrived: float = getattr(request.state, "arrived", time.monotonic())
    return arrived + timeout
