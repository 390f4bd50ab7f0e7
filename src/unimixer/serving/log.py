"""Write the log of the server as JSON lines to standard error, without blocking the callers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TextIO

import orjson

MAX_LINES = 10_000
"""Largest number of lines that wait to be written; more are dropped and counted."""
MAX_TEXT = 4_000
"""Largest number of characters of a text from a library."""
TOLD = "Invalid HTTP request received."
"""What uvicorn says of a connection that the server has refused, with a line of its own."""
PAUSE_S = 0.05
"""Seconds between the first waiting line and its write, so that a busy server writes many lines per wake-up."""
AT_ONCE = 100
"""Largest number of lines of one write."""
CLOSE_S = 1.0
"""Seconds for writing the last lines when the log closes."""


class Log:
    """Write one JSON object per line, without keys, columns or addresses of users.

    A call only puts a line into a bounded queue, so it never fails and never waits; a thread writes the lines. Lines
    that cannot be written, because the pipe is closed or the disk is full, are dropped and counted. The next written
    line reports their number.

    Args:
        stream: destination of the lines (default: the current standard error).
        lost: callback for the number of dropped lines.
    """

    def __init__(self, stream: TextIO | None = None, *, lost: Callable[[int], object] = int) -> None:
        self._put = _writer(sys.stderr if stream is None else stream)
        self._lost, self._unreported, self._broken = lost, 0, b""
        self._lines: deque[bytes] = deque()
        self._wake, self._ended, self._count_lock = threading.Event(), False, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)  # daemon: a write may block
        self._thread.start()

    def __call__(self, event: str, **facts: Any) -> None:
        """Queue one line."""
        if self._ended or len(self._lines) >= MAX_LINES:
            self._lose(1)
            return
        try:
            self._lines.append(_line({"at": round(time.time(), 3), "event": event, **facts}))
        except Exception:  # a fact without a text must not stop the caller
            self._lose(1)
            return
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> bool:
        """Write the last lines within :data:`CLOSE_S`, and return whether all lines were written."""
        self._ended = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._lose(len(self._lines))
        self._lines.clear()
        return self._unreported == 0 and not self._thread.is_alive()

    def _lose(self, count: int) -> None:
        if count:
            with self._count_lock:
                self._unreported += count
            self._lost(count)

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait()
            if not self._ended:
                time.sleep(PAUSE_S)
            self._wake.clear()
            while waiting := min(len(self._lines), AT_ONCE):
                self._write([self._lines.popleft() for _ in range(waiting)])

    def _write(self, lines: list[bytes]) -> None:
        if lost := self._unreported:
            fact = _line({"at": round(time.time(), 3), "event": "log lines lost", "lines": lost})
            if self._written([fact]) == 1:
                with self._count_lock:
                    self._unreported -= lost
        self._lose(len(lines) - self._written(lines))

    def _written(self, lines: list[bytes]) -> int:
        """Write lines and return how many were written whole. A partial line is ended before the next one."""
        data = left = self._broken + b"".join(lines)
        try:
            while left:
                left = left[self._put(left) :]
        except (OSError, ValueError):  # closed pipe, full disk or closed stream
            if written := data[: len(data) - len(left)]:
                self._broken = b"" if written.endswith(b"\n") else b"\n"
            return len(lines) - min(len(lines), left.count(b"\n"))
        self._broken = b""
        return len(lines)


@contextlib.contextmanager
def standard_error(log: Log) -> Iterator[None]:
    """Convert the output of Python code to standard error to lines of the log, and close the log at the end.

    Warnings, records of ``logging`` and exceptions of threads get one line each, and no other handler of ``logging``
    writes them beside, such as one that a library has made. The line of an exception has its type
    and the lines that raised it, without its text, which may contain data of a user. If a line of the log could not be
    written, standard error stays redirected: the last output of a program must neither fail nor block.
    """
    before = sys.stderr, threading.excepthook, sys.unraisablehook
    root = logging.getLogger()
    handlers = list(root.handlers)
    sys.stderr = _Lines(log)
    threading.excepthook = lambda failure: log("failure", **error_facts(failure.exc_value))
    sys.unraisablehook = lambda failure: log("failure", **error_facts(failure.exc_value))
    logging.captureWarnings(True)
    root.handlers = [_Records(log)]
    try:
        yield
    finally:
        root.handlers = handlers
        logging.captureWarnings(False)
        stream, threading.excepthook, sys.unraisablehook = before
        if log.close():
            sys.stderr = stream


def error_facts(error: BaseException | None) -> dict[str, Any]:
    """Return the type of an error and the lines that raised it; its text may contain data of a user."""
    if error is None:
        return {"error": "unknown"}
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    lines = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "at_lines": lines}


def _line(facts: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(facts, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # an integer beyond 64 bits, or half a character
        return json.dumps(facts, default=str).encode() + b"\n"


class _Records(logging.Handler):
    """Convert the records of libraries to lines of the log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == TOLD:
            return
        facts = error_facts(record.exc_info[1]) if record.exc_info else {}
        text = " ".join(record.getMessage().split())[:MAX_TEXT]
        self._log("library", name=record.name, level=record.levelname.lower(), text=text, **facts)


class _Lines(io.TextIOBase):
    """Convert lines of text that are written to standard error to lines of the log."""

    def __init__(self, log: Log) -> None:
        self._log, self._rest = log, ""

    def write(self, text: str) -> int:
        *lines, rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._log("standard error", text=line[:MAX_TEXT])
        self._rest = rest[:MAX_TEXT]
        return len(text)

    def writable(self) -> bool:
        return True


def _writer(stream: TextIO | None) -> Callable[[bytes], int]:
    """Return a function that writes bytes to the file of a stream, without a buffer that retains failed writes."""
    if stream is None:  # closed before the start; another file must not get its number
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
        return _nowhere
    try:
        number = stream.fileno()
        stream.flush()
    except (OSError, ValueError):  # a stream in memory
        return partial(_to_stream, stream)
    return partial(_to_file, number)


def _nowhere(data: bytes) -> int:
    raise OSError("standard error is closed")


def _to_stream(stream: TextIO, data: bytes) -> int:
    stream.write(data.decode())
    stream.flush()
    return len(data)


def _to_file(number: int, data: bytes) -> int:
    try:
        return os.write(number, data)
    except BlockingIOError:  # the pipe was opened in non-blocking mode
        select.select([], [number], [], CLOSE_S)
        return 0
