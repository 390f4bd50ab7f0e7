"""The log of the server: JSON lines on standard error that nobody waits for, whoever reads them or does not."""

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

MOST_LINES = 10_000
"""Lines that wait to be written; more are lost, counted."""
MOST_TEXT = 4_000
"""Characters of a text that a library writes."""
PAUSE_S = 0.01
"""Between the first waiting line and its write: lines of a busy server are written together, without a wake-up each."""
LAST_S = 1.0
"""For the last lines at the end."""


class Log:
    """One JSON object a line; no key, no column and no address of a user is ever in it.

    A call only puts a line into a queue with a bound, so it never fails and never waits; a thread writes. Lines that
    cannot be written, because nobody reads them or the disk is full, are lost and counted, and the next line that gets
    through says how many.

    Args:
        stream: where lines go (default: standard error as it is now).
        lost: told how many lines were lost.
    """

    def __init__(self, stream: TextIO | None = None, *, lost: Callable[[int], object] = int) -> None:
        self._put = _writer(sys.stderr if stream is None else stream)
        self._lost, self._unsaid, self._broken = lost, 0, b""
        self._lines: deque[str] = deque()
        self._wake, self._ended, self._counting = threading.Event(), False, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)  # it may stand in a write for ever
        self._thread.start()

    def __call__(self, event: str, **facts: Any) -> None:
        """Write one line, some time soon."""
        if self._ended or len(self._lines) >= MOST_LINES:
            self._lose(1)
            return
        try:
            self._lines.append(json.dumps({"at": round(time.time(), 3), "event": event, **facts}, default=str))
        except Exception:  # a fact without a text: whoever logs goes on
            self._lose(1)
            return
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> bool:
        """Write the last lines for at most :data:`LAST_S`; tells whether all lines were written."""
        self._ended = True
        self._wake.set()
        self._thread.join(LAST_S)
        self._lose(len(self._lines))
        self._lines.clear()
        return self._unsaid == 0 and not self._thread.is_alive()

    def _lose(self, count: int) -> None:
        if count:
            with self._counting:
                self._unsaid += count
            self._lost(count)

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait()
            if not self._ended:
                time.sleep(PAUSE_S)
            self._wake.clear()
            while self._lines:
                self._write(self._lines.popleft())

    def _write(self, line: str) -> None:
        if said := self._unsaid:
            fact = {"at": round(time.time(), 3), "event": "log lines lost", "lines": said}
            if self._written(json.dumps(fact)):
                with self._counting:
                    self._unsaid -= said
        if not self._written(line):
            self._lose(1)

    def _written(self, line: str) -> bool:
        """Write all of a line; where only a part got through, the next one begins on a line of its own."""
        data = self._broken + line.encode() + b"\n"
        size = len(data)
        try:
            while data:
                data = data[self._put(data) :]
        except (OSError, ValueError):  # nobody reads, no room, or closed
            if len(data) < size:
                self._broken = b"\n"
            return False
        self._broken = b""
        return True


@contextlib.contextmanager
def standard_error(log: Log) -> Iterator[None]:
    """Turn whatever Python code writes to standard error into lines of the log, and close the log at the end.

    Warnings, records of ``logging`` and exceptions of threads are one line each. Of an exception the line has the kind
    and where it was raised, because its text may hold a user's data. Where the log could not be written, standard
    error stays turned off: what a program prints last must neither fail nor wait.
    """
    before = sys.stderr, threading.excepthook, sys.unraisablehook
    handler, root = _Records(log), logging.getLogger()
    sys.stderr = _Lines(log)
    threading.excepthook = lambda found: log("failure", **told(found.exc_value))
    sys.unraisablehook = lambda found: log("failure", **told(found.exc_value))
    logging.captureWarnings(True)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(False)
        stream, threading.excepthook, sys.unraisablehook = before
        if log.close():
            sys.stderr = stream


def told(error: BaseException | None) -> dict[str, Any]:
    """The kind of an error and where it was raised; its text may hold a user's data."""
    if error is None:
        return {"error": "unknown"}
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "at_lines": places}


class _Records(logging.Handler):
    """Records of libraries, one line each."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        facts = told(record.exc_info[1]) if record.exc_info else {}
        text = " ".join(record.getMessage().split())[:MOST_TEXT]
        self._log("library", name=record.name, level=record.levelname.lower(), text=text, **facts)


class _Lines(io.TextIOBase):
    """A standard error that makes lines of the log out of whole lines of text."""

    def __init__(self, log: Log) -> None:
        self._log, self._rest = log, ""

    def write(self, text: str) -> int:
        *lines, rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._log("standard error", text=line[:MOST_TEXT])
        self._rest = rest[:MOST_TEXT]
        return len(text)

    def writable(self) -> bool:
        return True


def _writer(stream: TextIO | None) -> Callable[[bytes], int]:
    """What writes bytes: the file itself, without a buffer that keeps what could not be written."""
    if stream is None:  # closed before the start; its number must not become that of another file
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
    except BlockingIOError:  # who started the server made the pipe so
        select.select([], [number], [], LAST_S)
        return 0
