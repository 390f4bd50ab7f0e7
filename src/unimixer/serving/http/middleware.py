"""What every request goes through: its number, its log line, its counters, and an answer even where code fails."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from unimixer.serving.http.common import dump
from unimixer.serving.log import Log, error_facts
from unimixer.serving.metrics import Metrics
from unimixer.serving.thread_pool import BoundedThreadPool

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HEADERS = re.compile(rb"(?:[A-Za-z0-9-]+:[ -~]*\r\n)*")
_HEADER = re.compile(rb"\n([A-Za-z0-9-]+):([ -~]*)\r")
_PARSED = frozenset((b"transfer-encoding", b"connection", b"expect", b"upgrade"))
"""Headers that change what a request is, or what follows it."""
MAX_PLAIN_HEAD = 4 << 10
"""Largest number of bytes of a head that is understood without a parser."""
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
FAILED = "the server failed on this request; its log says where"
QUIET = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
"""Routes that are asked every few seconds; they are counted and not logged."""


@dataclass(frozen=True)
class Crowded:
    """A route whose requests are refused unread while the pool that answers them is full."""

    method: str
    route: Any
    pool: BoundedThreadPool


class RequestMiddleware:
    """Wraps the application: request id, metrics, log line, and one JSON shape for what nobody foresaw.

    Args:
        app: the application.
        metrics: counters.
        log: where lines go.
        routes: applications by method and path that are called in its place.
        crowded: routes that are refused unread while they are full, by request line.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        log: Log,
        routes: Mapping[tuple[str, str], App],
        crowded: Mapping[bytes, Crowded] | None = None,
    ) -> None:
        self.app, self.metrics, self.log, self.routes, self.crowded = app, metrics, log, routes, crowded or {}
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        request_id = state.setdefault("request_id", _request_id(scope["headers"]))
        state["arrived"] = time.monotonic()
        status, ended = 0, False

        async def answer(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended = True  # what is done after the answer is not part of it
                self._note(scope, status, time.perf_counter() - started)

        app = self.routes.get((scope["method"], scope["path"]), self.app)
        try:
            await app(scope, receive, answer)
        except Exception as error:
            self._failed(request_id, error)
            if status == 0:
                await _respond(answer, 500, {"error": FAILED, "request_id": request_id})
            status = 500
        finally:
            if not ended:  # cut off
                self._note(scope, status, time.perf_counter() - started)

    def refusal(self, data: bytes) -> list[bytes] | None:
        """Refuse a request that came in one piece; None if it may go on, or if it takes a parser to understand it.

        Args:
            data: the request, with its body.

        Returns:
            The status line of the answer, and all after the headers that every answer has. It is counted and logged.
        """
        crowded = self.crowded.get(data[: data.find(b"\r\n")])
        if crowded is None or not crowded.pool.full or (headers := plain_headers(data)) is None:
            return None
        started = time.perf_counter()
        error, request_id = crowded.pool.refusal(), _request_id(headers)
        body = dump({"error": str(error), "request_id": request_id})
        scope = {"method": crowded.method, "route": crowded.route, "state": {"request_id": request_id}}
        self._note(scope, error.status, time.perf_counter() - started)
        return [
            STATUS_LINE[error.status],
            b"content-type: application/json\r\ncontent-length: %d\r\nretry-after: %d\r\nx-request-id: %b\r\n\r\n"
            % (len(body), error.retry_after or 1, request_id.encode()),
            body,
        ]

    def _note(self, scope: Message, status: int, seconds: float) -> None:
        """Count a request and log it."""
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "none")
        count, times = self._counters(route, status)
        count.inc()
        times.observe(seconds)
        if route not in QUIET or status >= 500:
            facts = {k: state[k] for k in ("candidates", "model_version") if k in state}
            self.log("request", request_id=state["request_id"], method=scope["method"], route=route, status=status,
                     ms=round(seconds * 1000, 3), **facts)  # fmt: skip

    def _counters(self, route: str, status: int) -> tuple[Counter, Histogram]:
        """Those of a route and a status, which are few; to look them up in the metrics takes longer."""
        found = self._known.get((route, status))
        if found is None:
            found = self.metrics.requests.labels(route, str(status)), self.metrics.seconds.labels(route)
            self._known[route, status] = found
        return found

    def _failed(self, request_id: str, error: Exception) -> None:
        """The kind of the error and where it was raised; its text may hold a user's data."""
        self.log("failure", request_id=request_id, **error_facts(error))


async def _respond(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def plain_headers(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """The headers of a request that came in one piece with its body; None unless they are sure to mean just that."""
    end = data.find(b"\r\n\r\n", 0, MAX_PLAIN_HEAD) + 2
    if end < 2 or _HEADERS.fullmatch(data, data.index(b"\r\n") + 2, end) is None:
        return None
    headers = [(name.lower(), value.strip()) for name, value in _HEADER.findall(data, 0, end)]
    names = [name for name, _ in headers]
    if names.count(b"content-length") != 1 or not _PARSED.isdisjoint(names):
        return None
    length = headers[names.index(b"content-length")][1]
    plain = length.isdigit() and len(length) < 10
    return headers if plain and len(data) - end - 2 == int(length) else None


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's id where it is a plain one: it goes into headers and logs."""
    for name, value in headers:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return bytes(value).decode()
    return uuid.uuid4().hex
