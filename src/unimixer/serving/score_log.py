"""Every answer as a row of Parquet parts: what a replay needs, written by a thread of its own."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.files import atomic_file
from unimixer.serving.encoder import RankCall

PART_ROWS = 2_000
"""Answers after which a part is written before its time."""
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("answered_ms", pa.int64()),
        ("time_ms", pa.int64()),
        ("model_version", pa.string()),
        ("user", pa.string()),
        ("user_revision", pa.int64()),
        ("call", pa.string()),
        ("items", pa.list_(pa.string())),
        ("item_revisions", pa.list_(pa.int64())),
        ("tasks", pa.list_(pa.string())),
        ("scores", pa.list_(pa.list_(pa.float32()))),
        ("fields", pa.list_(pa.string())),
        ("hashes", pa.list_(pa.uint64())),
    ]
)
"""``call`` is JSON: the context, the columns that the call brought, and its time; ``scores`` has a list a task."""


@dataclass(frozen=True)
class Answer:
    """One row of the score log."""

    request_id: str
    answered_ms: int
    time_ms: int
    model_version: str
    user: str | None
    user_revision: int
    call: RankCall
    items: list[str | None]
    item_revisions: NDArray[np.int64]
    tasks: tuple[str, ...]
    scores: NDArray[np.float32]
    hashes: dict[str, int]


class ScoreLog:
    """Writes answers below a folder, a part every ``flush`` seconds in which there were any.

    A part appears whole, under its name, after it reached the disk. A part that cannot be written is tried again with
    the next one; beyond ``max_rows`` waiting answers new ones are dropped and counted.

    Args:
        folder: of the parts; it is made.
        flush: seconds between two parts: the most that is lost when the process is killed.
        max_rows: answers that wait at most.
        written: told the number of answers of every part.
        failed: told what the disk said.
        dropped: told of every answer that was lost.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush: float,
        max_rows: int,
        written: Callable[[int], object] = int,
        failed: Callable[[str], object] = str,
        dropped: Callable[[], object] = int,
    ) -> None:
        self.folder, self.max_rows, self._flush_s = folder, max_rows, flush
        self._written, self._failed, self._dropped = written, failed, dropped
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[Answer] = []
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._writing, self._number = threading.Lock(), 0
        self._thread = threading.Thread(target=self._work, name="score log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that are not on the disk yet."""
        return len(self._rows)

    def add(self, answer: Answer) -> None:
        """Take an answer; never waits for the disk."""
        with self._lock:
            if len(self._rows) < self.max_rows:
                self._rows.append(answer)
                full = len(self._rows) >= PART_ROWS
            else:
                self._dropped()
                return
        if full:
            self._wake.set()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            UnimixerError: the disk refuses; the answers keep waiting.
        """
        with self._writing:
            with self._lock:
                rows = list(self._rows)
            if not rows:
                return
            with atomic_file(self.folder / self._name()) as temporary:
                parquet.write_table(_table(rows), temporary, compression="zstd")
            with self._lock:
                del self._rows[: len(rows)]
            self._written(len(rows))

    def close(self) -> None:
        """Write the last part and stop."""
        self._ended.set()
        self._wake.set()
        self._thread.join()
        self.flush()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(self._flush_s)
            self._wake.clear()
            try:
                self.flush()
            except Exception as error:  # this thread must live: answers are not lost while they wait
                self._failed(f"{type(error).__name__}: {error}" if not isinstance(error, UnimixerError) else str(error))
                self._ended.wait(self._flush_s)

    def _name(self) -> str:
        self._number += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        return f"scores-{stamp}-{os.getpid()}-{self._number:06d}.parquet"


def read_log(place: Path) -> Iterator[dict[str, Any]]:
    """Rows of a score log, oldest part first, with the call as an object.

    Args:
        place: the folder, or one part.

    Raises:
        UnimixerError: there is no part, or one cannot be read.
    """
    parts = [place] if place.is_file() else sorted(place.glob("scores-*.parquet"))
    if not parts:
        raise UnimixerError(f"{place}: no score log; expected a folder with parts scores-*.parquet, or one part")
    for part in parts:
        try:
            for batch in parquet.ParquetFile(part).iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield {**row, "call": json.loads(row["call"])}
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UnimixerError(f"{part}: not a part of a score log ({' '.join(str(error).split())})") from None


def answer_time() -> int:
    """Now, in ms."""
    return int(time.time() * 1000)


def _table(rows: list[Answer]) -> pa.Table:
    columns = {
        "request_id": [r.request_id for r in rows],
        "answered_ms": [r.answered_ms for r in rows],
        "time_ms": [r.time_ms for r in rows],
        "model_version": [r.model_version for r in rows],
        "user": [r.user for r in rows],
        "user_revision": [r.user_revision for r in rows],
        "call": [_call(r.call) for r in rows],
        "items": [r.items for r in rows],
        "item_revisions": [r.item_revisions for r in rows],
        "tasks": [list(r.tasks) for r in rows],
        "scores": [list(r.scores.T) for r in rows],
        "fields": [list(r.hashes) for r in rows],
        "hashes": [np.asarray(list(r.hashes.values()), dtype=np.uint64) for r in rows],
    }
    return pa.table({name: pa.array(columns[name], type=SCHEMA.field(name).type) for name in SCHEMA.names})


def _call(call: RankCall) -> str:
    return json.dumps(
        {
            "context": call.context,
            "user_columns": call.user_columns,
            "item_columns": None if call.item_columns is None else list(call.item_columns),
            "now": call.now,
        }
    )
