"""Limit connections: their number, the size of request heads, and the time for a head to arrive."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from unimixer.serving.log import Log
from unimixer.serving.metrics import Metrics

MAX_PATH = 16 << 10
"""Largest number of bytes of a path with its query."""
MAX_HEAD = 32 << 10
"""Largest number of bytes of a path and all headers."""
REST_S = 0.002
"""Seconds that the loop rests between two rounds of refusals; see :meth:`Connection._rest`."""
OTHER_FILES = 128
"""Open files that are reserved for libraries, the feature store and the prediction log."""


@dataclass(frozen=True)
class Limits:
    """Hold the limits of connections, and the metrics and the log that record violations."""

    connections: int
    idle: float
    """Seconds that a client may send no request, or read no answer."""
    timeout: float
    """Seconds for a head from its first byte on, and for the rest of a body after an early answer."""
    metrics: Metrics
    log: Log
    refusal: Callable[[bytes], list[bytes] | None] = lambda _: None
    """Refuses a whole request, given as it came: the parts of the answer, without the headers of every answer."""
    resting: threading.Event = field(default_factory=threading.Event)
    """Set while the loop is about to rest."""


class Connection(HttpToolsProtocol):
    """Handle one connection, and close it with a one-sentence refusal if the client violates HTTP or a limit.

    Args:
        limits: limits of the connection.
        settings: settings of uvicorn.
    """

    def __init__(self, limits: Limits, **settings: Any) -> None:
        super().__init__(**settings)
        self.limits = limits
        self._in_head, self._in_body, self._refused = False, False, False
        self._parsed = self._raw = self._begun = 0  # bytes of the current head; heads begun in this chunk
        self._between = 0  # bytes since the last part of the body: chunk extensions, trailers
        self._last: bytes | None = None  # to write before the end, once the answers in progress are complete
        self._due: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # ---- the network ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, unless too many are open."""
        super().connection_made(transport)
        most, idle = self.limits.connections, self.limits.idle
        if len(self.connections) > most:
            self._refuse(503, "connections", f"{most:,} connections are open, which is the limit; try again later")
        else:
            self._expect(idle, lambda: self._refuse(408, "idle", f"no request arrived within {idle:g} s"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk of data, and apply the limits of bytes and time to an incomplete head."""
        if self._refused or self._refuse_unread(data):
            return
        began, timeout, idle = self._in_head, self.limits.timeout, not (self._in_head or self._in_body)
        self._raw, self._begun, self._between = self._raw + len(data), 0, self._between + len(data)
        super().data_received(data)
        if self._in_body and self._between > MAX_HEAD:
            self._refuse(431, "trailers", f"more than {MAX_HEAD:,} bytes arrived between the parts of the body")
        if self._in_head:
            if idle and self._begun == 1:
                self._raw = len(data)  # the whole chunk belongs to this head
            if self._check_size() and (self._due is None or not began):
                self._expect(
                    timeout, lambda: self._refuse(408, "head", f"no complete request head arrived within {timeout:g} s")
                )
        elif self._due is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._expect(self.limits.idle, self._hang_up)  # blank lines, or the rest of an unread body

    def _refuse_unread(self, data: bytes) -> bool:
        """Answer a request that came in one piece without parsing it, if a crowd is to be refused.

        A refusal takes time from the answers, so it takes the shortest way: no parser, no task, no application.
        """
        if self._in_head or self._in_body or not self._is_idle():
            return False
        answer = self.limits.refusal(data)
        if answer is None:
            return False
        status, *rest = answer
        headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(b"".join([status, *headers, *rest]))
        self.server_state.total_requests += 1
        self._came()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._rest()
        return True

    def _rest(self) -> None:
        """Let the loop sleep for a moment after this round, so that a crowd is refused in groups.

        Whenever the loop wakes, it takes the interpreter and a processor from the threads that score. All answers wait
        at least for the jobs before them in a full server, so a moment more is little.
        """
        if not self.limits.resting.is_set():
            self.limits.resting.set()
            self.loop.call_soon(self._sleep)

    def _sleep(self) -> None:
        time.sleep(REST_S)
        self.limits.resting.clear()

    def pause_writing(self) -> None:
        """Start the timer of a client that does not read."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """Cancel the timer: the client reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # ---- the parser -------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """See :class:`HttpToolsProtocol`."""
        super().on_message_begin()
        self._in_head, self._parsed, self._raw = True, 0, 0
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """See :class:`HttpToolsProtocol`."""
        self._parsed += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See :class:`HttpToolsProtocol`."""
        self._parsed += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head is too large."""
        if self._check_size():
            self._in_head, self._in_body, self._between = False, True, 0
            self._came()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See :class:`HttpToolsProtocol`."""
        self._between = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; after an early answer, the connection is idle from now on."""
        if self._refused:
            return
        self._in_body = False
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._expect(self.limits.idle, self._hang_up)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the timers for the rest of an unread body, and for a client that does not read the answer."""
        complete = not self.pipeline  # no request waits for its turn
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._last is not None:
            if complete:
                self._end(self._last)
        elif self.cycle.response_complete and self.cycle.more_body:
            self._expect(self.limits.timeout, self._hang_up)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection after the keep-alive time."""
        self._hang_up()

    def send_400_response(self, msg: str) -> None:
        """Refuse data that is not HTTP."""
        body = "the body of the request breaks the rules of HTTP/1.1, such as those of the size and end of a chunk"
        self._refuse(400, "syntax", body if self._in_body else "this is not an HTTP/1.1 request")

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore the offer of another protocol, and answer over HTTP/1.1."""

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _check_size(self) -> bool:
        """Return whether the head is within its limits; close the connection if not."""
        if self._refused:
            return False
        if len(self.url) > MAX_PATH:
            self._refuse(414, "path", f"the path has more than {MAX_PATH:,} bytes")
        elif max(self._parsed, self._raw) > MAX_HEAD:
            self._refuse(431, "head", f"the head of the request has more than {MAX_HEAD:,} bytes")
        return not self._refused

    def _expect(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._came()
        self._due = self.loop.call_later(seconds, otherwise)

    def _came(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _refuse(self, status: int, reason: str, sentence: str) -> None:
        """Answer what breaks a rule, after all answers that are in progress, and close the connection."""
        if self._refused:
            return
        self._refused, request_id, counted = True, uuid.uuid4().hex, False
        busy, answered = not self._is_idle(), self._in_body and self.cycle.response_started
        if self._in_body and not answered:  # the refusal is the answer of this request
            busy = bool(self.pipeline)  # it waits for its turn, as the newest one
            if busy:
                self.pipeline.popleft()
            else:
                request_id, counted = self.cycle.scope["state"].setdefault("request_id", request_id), True
                self.cycle.disconnected = True  # the application sees the end of the connection
                self.cycle.message_event.set()
        self.limits.metrics.connections_refused.labels(reason).inc()
        self.limits.log("connection refused", reason=reason, status=status, request_id=request_id)
        if not counted:  # by the application
            self.limits.metrics.requests.labels("none", str(status)).inc()
        body = json.dumps({"error": sentence, "request_id": request_id}).encode()
        head = [*(["retry-after: 1"] if status == 503 else []), "connection: close", f"x-request-id: {request_id}",
                "content-type: application/json", f"content-length: {len(body)}", "", ""]  # fmt: skip
        last = b"" if answered else STATUS_LINE[status] + "\r\n".join(head).encode() + body
        if busy:
            self._came()
            self._last = last
        else:
            self._end(last)

    def _end(self, last: bytes) -> None:
        self.transport.write(last)
        self._hang_up()

    def _is_idle(self) -> bool:
        """Return whether no answer is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _hang_up(self) -> None:
        self._came()
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Abort the connection after the idle time, if the client does not read the rest of the answer."""
        if self._unread is None and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self.limits.idle, self.transport.abort)


def files_for(connections: int) -> int:
    """Raise the limit of open files as far as possible, and return the number of connections that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        connections = min(connections, max(1, soft - OTHER_FILES))
    return connections
