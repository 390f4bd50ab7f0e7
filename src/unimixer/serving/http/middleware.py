"""What every request goes through: its number, its log line, its counters, and an answer even where code fails."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from prometheus_client import Counter, Histogram

from unimixer.serving.errors import HTTPError
from unimixer.serving.http.common import dump
from unimixer.serving.log import Log, error_facts
from unimixer.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

Refuse = Callable[[], HTTPError | None]

_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
FAILED = "the server failed on this request; its log says where"
QUIET = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
"""Routes that are asked every few seconds; they are counted and not logged."""


class RequestMiddleware:
    """Wraps the application: request id, metrics, log line, and one JSON shape for what nobody foresaw.

    Args:
        app: the application.
        metrics: counters.
        log: where lines go.
        routes: applications by method and path that are called in its place.
        refusals: by method and path, what refuses a request before anything of it is read.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        log: Log,
        routes: Mapping[tuple[str, str], App],
        refusals: Mapping[tuple[str, str], Refuse] | None = None,
    ) -> None:
        self.app, self.metrics, self.log, self.routes, self.refusals = app, metrics, log, routes, refusals or {}
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(scope)
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

    def refusal(self, scope: Message) -> tuple[HTTPError, bytes] | None:
        """Refuse a request without the application and without a task of its own; None if it may go on.

        A crowd costs the time that answers need, so its refusals take the shortest way.

        Returns:
            The refusal and the body of its answer, which are counted and logged.
        """
        refuse = self.refusals.get((scope["method"], scope["path"]))
        error = None if refuse is None else refuse()
        if error is None:
            return None
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        scope["route"] = getattr(self.routes[scope["method"], scope["path"]], "route", None)
        body = dump({"error": str(error), "request_id": state["request_id"]})
        self._note(scope, error.status, time.perf_counter() - started)
        return error, body

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


def _request_id(scope: Message) -> str:
    """The caller's id where it is a plain one: it goes into headers and logs."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return bytes(value).decode()
    return uuid.uuid4().hex
