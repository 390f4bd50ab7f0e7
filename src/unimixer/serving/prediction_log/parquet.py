"""The prediction log as Parquet parts in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from unimixer.errors import UnimixerError
from unimixer.io import atomic_file, disk_errors
from unimixer.serving.prediction_log.record import Entry, LogSink, PredictionRecord, UnfitError, call_text

SCHEMA = pa.schema(
    [
        ("writer", pa.string()),
        ("number", pa.int64()),
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


class ParquetSink(LogSink[PredictionRecord]):
    """A part a write, which appears whole, under its name, after it reached the disk.

    Args:
        folder: of the parts; it is made.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.name, self._parts = folder, str(folder), 0
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, entries: Sequence[Entry[PredictionRecord]]) -> None:
        """See :meth:`LogSink.write`."""
        try:
            batches = [_batch(str(self.writer), piece) for piece in self.pieces(entries)]
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise UnfitError(f"{self.name}: an answer does not fit the columns ({type(error).__name__})") from None
        self.give_way()
        with atomic_file(self.folder / self._part()) as temporary:
            # without dictionaries and statistics a part takes half of the time to write, and fewer bytes
            table = pa.Table.from_batches(batches, SCHEMA)
            parquet.write_table(table, temporary, compression="zstd", use_dictionary=False, write_statistics=False)

    def _part(self) -> str:
        self._parts += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        return f"scores-{stamp}-{os.getpid()}-{self._parts:06d}.parquet"


def read_parts(place: Path) -> Iterator[dict[str, Any]]:
    """See :func:`unimixer.serving.prediction_log.writer.read_log`."""
    parts = [place] if place.is_file() else sorted(place.glob("scores-*.parquet"))
    if not parts:
        raise UnimixerError(f"{place}: no prediction log; expected a folder with parts scores-*.parquet, or one part")
    for part in parts:
        try:
            for batch in parquet.ParquetFile(part).iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield {**row, "call": json.loads(row["call"])}
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UnimixerError(f"{part}: not a part of a prediction log ({' '.join(str(error).split())})") from None


def _batch(writer: str, entries: Sequence[Entry[PredictionRecord]]) -> pa.RecordBatch:
    rows = [entry.answer for entry in entries]
    columns = {
        "writer": [writer] * len(rows),
        "number": [entry.number for entry in entries],
        "request_id": [r.request_id for r in rows],
        "answered_ms": [r.answered_ms for r in rows],
        "time_ms": [r.time_ms for r in rows],
        "model_version": [r.model_version for r in rows],
        "user": [r.user for r in rows],
        "user_revision": [r.user_revision for r in rows],
        "call": [call_text(r.call) for r in rows],
        "items": [r.items for r in rows],
        "item_revisions": [r.item_revisions for r in rows],
        "tasks": [list(r.tasks) for r in rows],
        "scores": [list(r.scores.T) for r in rows],
        "fields": [list(r.hashes) for r in rows],
        "hashes": [np.asarray(list(r.hashes.values()), dtype=np.uint64) for r in rows],
    }
    arrays = [pa.array(columns[name], type=SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
