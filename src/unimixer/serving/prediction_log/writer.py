"""Every answer of a server in a log: a queue with a bound, and a thread that hands it to the place of the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic

from unimixer.errors import UnimixerError
from unimixer.postgres import is_address
from unimixer.serving.prediction_log.record import Entry, LogSink, PredictionRecord, Row, UnfitError, answer_time

__all__ = ["PredictionLog", "PredictionRecord", "answer_time", "open_sink", "read_log"]

PART_ROWS = 2_000
"""Answers of one write at most; when so many wait, they are written before their time."""
LONGEST_PAUSE_S = 10.0
"""Between two tries while the place refuses."""
LAST_PAUSE_S = 0.2
"""Between two tries at the end."""


class PredictionLog(Generic[Row]):
    """Hands answers to a sink every ``flush`` seconds in which there were any.

    What cannot be written waits and is tried again; beyond ``max_rows`` waiting answers new ones are dropped, counted.
    An answer that the sink cannot hold at all is left out, counted and named, so that it does not block the others.

    Args:
        sink: where answers go; it is closed with the log.
        flush: seconds between two writes: the most that is lost when the process is killed.
        max_rows: answers that wait at most.
        patience: seconds for which :meth:`close` goes on without any answer written.
        written: told the number of answers of every write.
        failed: told why a write failed.
        dropped: told how many answers were lost.
        rejected: told the request id of an answer that the sink cannot hold, and why.
    """

    def __init__(
        self,
        sink: LogSink[Row],
        *,
        flush: float,
        max_rows: int,
        patience: float = 30.0,
        written: Callable[[int], object] = int,
        failed: Callable[[str], object] = str,
        dropped: Callable[[int], object] = int,
        rejected: Callable[[str, str], object] = lambda request_id, reason: None,
    ) -> None:
        self.sink, self.max_rows, self._flush_s, self._patience = sink, max_rows, flush, patience
        self._written, self._failed, self._dropped, self._rejected = written, failed, dropped, rejected
        self._entries: list[Entry[Row]] = []
        self._next, self._refused, self._why, self._moved = 0, False, "it does not answer", 0.0
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="prediction log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that are not written yet."""
        return len(self._entries)

    @property
    def refused(self) -> bool:
        """Whether the last write failed."""
        return self._refused

    def add(self, answer: Row) -> None:
        """Take an answer; never waits for the sink."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            waiting = len(self._entries)
            if waiting < self.max_rows:
                self._entries.append(Entry(number, answer))
        if waiting >= self.max_rows:
            self._dropped(1)
        elif waiting + 1 >= PART_ROWS:
            self._wake.set()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            UnimixerError: the sink refuses; the answers keep waiting.
        """
        with self._writing:
            for _ in range(0, len(self._entries), PART_ROWS):
                with self._lock:
                    part = self._entries[:PART_ROWS]
                self._write(part)

    def close(self) -> None:
        """Write what waits, stop, and close the sink.

        Raises:
            UnimixerError: nothing could be written for longer than ``patience``; the answers that waited are lost.
        """
        self._moved = time.monotonic()
        self._ended.set()
        self._wake.set()
        while self._thread.is_alive() and time.monotonic() < self._moved + self._patience + LAST_PAUSE_S:
            self._thread.join(LAST_PAUSE_S)  # a thread in a write that does not end, ends with the process
        if lost := self.waiting:
            self._dropped(lost)
            raise UnimixerError(
                f"{self.sink.name}: the {self.sink.log} lost {lost:,} of its {self.sink.rows}, which could not be "
                f"written before the end ({self._why})"
            )

    def _finish(self) -> None:
        """What the thread does at the end: write what waits, as long as anything moves."""
        while self.waiting:
            try:
                self.flush()
            except Exception as error:
                self._note(error)
                if time.monotonic() >= self._moved + self._patience:
                    return
                time.sleep(LAST_PAUSE_S)

    def _note(self, error: Exception) -> None:
        self._refused, self._why = True, _reason(error)
        self._failed(self._why)

    def _write(self, part: list[Entry[Row]]) -> None:
        """Write the first entries; where some do not fit, halves of them, down to the ones that do not."""
        try:
            self.sink.write(part)
        except UnfitError as error:
            if len(part) > 1:
                middle = len(part) // 2
                self._write(part[:middle])
                self._write(part[middle:])
                return
            self._rejected(part[0].answer.request_id, str(error))
        else:
            self._written(len(part))
        self._moved = time.monotonic()
        with self._lock:
            del self._entries[: len(part)]

    def _work(self) -> None:
        pause = self._flush_s
        while not self._ended.is_set():
            self._wake.wait(self._flush_s)
            self._wake.clear()
            try:
                self.flush()
                self._refused, pause = False, self._flush_s
            except Exception as error:  # this thread must live: answers are not lost while they wait
                self._note(error)
                self._ended.wait(pause)
                pause = max(self._flush_s, min(2 * pause, LONGEST_PAUSE_S))
        self._finish()
        self.sink.close()


def open_sink(place: str | Path) -> LogSink[PredictionRecord]:
    """The place of a prediction log: a folder for Parquet parts, or the address of a PostgreSQL database.

    Raises:
        UnimixerError: it cannot be used.
    """
    if is_address(place):
        from unimixer.serving.prediction_log.postgres_log import PostgresSink

        return PostgresSink(str(place))
    _check_folder(place)
    from unimixer.serving.prediction_log.parquet import ParquetSink

    return ParquetSink(Path(place))


def read_log(place: str | Path) -> Iterator[dict[str, Any]]:
    """Answers of a prediction log, oldest first, with the call as an object.

    Args:
        place: the folder, one part, or the address of the database.

    Raises:
        UnimixerError: there is no prediction log, or it cannot be read.
    """
    if is_address(place):
        from unimixer.serving.prediction_log.postgres_log import read_table

        return read_table(str(place))
    _check_folder(place)
    from unimixer.serving.prediction_log.parquet import read_parts

    return read_parts(Path(place))


def _check_folder(place: str | Path) -> None:
    if isinstance(place, str) and "://" in place:
        scheme = place.partition("://")[0]
        raise UnimixerError(
            f"{scheme}://: not a place of a prediction log; give a folder, or postgresql://user@host/db"
        )


def _reason(error: Exception) -> str:
    """One sentence; of an error that nobody foresaw only the kind, because its text may hold a user's data."""
    if isinstance(error, (UnimixerError, OSError)):
        return str(error)
    return type(error).__name__
