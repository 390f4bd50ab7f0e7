"""The connections of the server: heads of bounded size that come in bounded time, and no more of them than files."""

from __future__ import annotations

import asyncio
import json
import resource
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from unimixer.serving.log import Log
from unimixer.serving.metrics import Metrics

MAX_PATH = 16 << 10
"""Bytes of a path with its query."""
MAX_HEAD = 32 << 10
"""Bytes of a path and all headers."""
OTHER_FILES = 128
"""Files that a server has open beside its connections: libraries, store, score log."""


@dataclass(frozen=True)
class Limits:
    """What a connection may take, and who is told that one took more."""

    connections: int
    idle: float
    """Seconds without a request, and without a reader of an answer."""
    timeout: float
    """Seconds for a head from its first byte on, and for the rest of a body that was answered before its end."""
    metrics: Metrics
    log: Log


class Connection(HttpToolsProtocol):
    """One connection; whatever it does that is no request ends it, with one sentence in the shape of every refusal.

    Args:
        limits: what it may take.
        settings: of uvicorn.
    """

    def __init__(self, limits: Limits, **settings: Any) -> None:
        super().__init__(**settings)
        self.limits = limits
        self._in_head, self._in_body, self._refused = False, False, False
        self._parsed = self._raw = self._begun = 0  # bytes of the head that began last; heads that began in this piece
        self._between = 0  # bytes of a body in chunks that are none of it: extensions, trailers
        self._due: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # ---- the network ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        most, idle = self.limits.connections, self.limits.idle
        if len(self.connections) > most:
            self._refuse(503, "connections", f"{most:,} connections are open, and no more are taken; try again later")
        else:
            self._expect(idle, lambda: self._refuse(408, "idle", f"no request came within {idle:g} s"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a head that is not whole yet has a limit of bytes and of time."""
        if self._refused:
            return
        began, timeout, idle = self._in_head, self.limits.timeout, not (self._in_head or self._in_body)
        self._raw, self._begun, self._between = self._raw + len(data), 0, self._between + len(data)
        super().data_received(data)
        if self._in_body and self._between > MAX_HEAD:
            self._refuse(431, "trailers", f"more than {MAX_HEAD:,} bytes came between the parts of the body")
        if self._in_head:
            if idle and self._begun == 1:
                self._raw = len(data)  # all of it is of this head
            if self._check_size() and (self._due is None or not began):
                self._expect(timeout, lambda: self._refuse(408, "head", f"no whole head came within {timeout:g} s"))
        elif self._due is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._expect(self.limits.idle, self._hang_up)  # blank lines, or what is left of an unread body

    def pause_writing(self) -> None:
        """The client does not read; not for ever."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """It reads again."""
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
        """The head is whole: the request begins, if the head is not too large."""
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
        """The request is whole; where it was answered before, the connection is idle from now on."""
        if self._refused:
            return
        self._in_body = False
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._expect(self.limits.idle, self._hang_up)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; what is left of the body has to come soon, and its reader too."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._expect(self.limits.timeout, self._hang_up)

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        self._hang_up()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "syntax", "this is no request of HTTP/1.1")

    def _unsupported_upgrade_warning(self) -> None:
        """Another protocol was offered; the request is answered in this one."""

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _check_size(self) -> bool:
        """Whether the head is within its limits; ends the connection where it is not."""
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
        if self._refused:
            return
        self._refused, request_id = True, uuid.uuid4().hex
        self.limits.metrics.connections_refused.labels(reason).inc()
        self.limits.log("connection refused", reason=reason, status=status, request_id=request_id)
        self.limits.metrics.requests.labels("none", str(status)).inc()
        if self._is_idle():  # otherwise it would stand within another answer
            body = json.dumps({"error": sentence, "request_id": request_id}).encode()
            head = [*(["retry-after: 1"] if status == 503 else []), "connection: close", f"x-request-id: {request_id}",
                    "content-type: application/json", f"content-length: {len(body)}", "", ""]  # fmt: skip
            self.transport.write(STATUS_LINE[status] + "\r\n".join(head).encode() + body)
        self._hang_up()

    def _is_idle(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _hang_up(self) -> None:
        self._came()
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Do not wait for ever for a client that does not read."""
        if self._unread is None and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self.limits.idle, self.transport.abort)


def files_for(connections: int) -> int:
    """How many connections there may be, after the process was allowed the files for them as far as it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        connections = min(connections, max(1, soft - OTHER_FILES))
    return connections
