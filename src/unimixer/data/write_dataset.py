"""Write a dataset: the second pass over the log, in which every worker encodes a run of pieces and writes its parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.dataset import SplitSummary, add_up
from unimixer.data.encoding.arrays import checksum, write_arrays
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.splits import Splitter
from unimixer.data.encoding.transform import FORMAT, Transform
from unimixer.data.raw.passes import LogReader, Steps
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import OOV_ID, PADDING_ID, SPLITS, Schema

PART_ROWS = 131_072
"""Impressions in one file."""


@dataclass
class Written:
    """The parts that one writer wrote, and rows of parts that it shares with others."""

    parts: list[SplitSummary] = field(default_factory=list)
    fragments: list[tuple[int, Rows]] = field(default_factory=list)
    """Number of the part and rows, where others hold the rest of the part: at most one at either end."""


class PartWriter:
    """Writes encoded impressions of one split as files of ``part_rows`` rows.

    Args:
        folder: of the dataset.
        split: its name.
        transform: what encoded the rows.
        total: rows of the split.
        first: rows of the split before those of this writer.
        part_rows: of a file.
    """

    def __init__(
        self, folder: Path, split: str, transform: Transform, *, total: int, first: int = 0, part_rows: int = PART_ROWS
    ) -> None:
        self.written = Written()
        self._folder, self._split, self._transform = folder, split, transform
        self._next, self._total, self._part_rows = first, total, part_rows
        self._buffer: list[Rows] = []
        self._buffered = 0

    def add(self, rows: Rows) -> None:
        """Append rows."""
        if len(rows):
            self._buffer.append(rows)
            self._buffered += len(rows)
        while self._buffered >= (wanted := self._part_rows - self._next % self._part_rows):
            self._flush(wanted)

    def close(self) -> Written:
        """Write the remaining rows."""
        if self._buffered:
            self._flush(self._buffered)
        return self.written

    def _flush(self, count: int) -> None:
        rows = Rows.concatenate(self._buffer)
        part, rest = rows.take(np.arange(count)), rows.take(np.arange(count, len(rows)))
        self._buffer, self._buffered = ([rest] if len(rest) else []), len(rest)
        number, self._next = self._next // self._part_rows, self._next + count
        if count == min(self._part_rows, self._total - number * self._part_rows):
            self.written.parts.append(write_part(self._folder, self._split, number, part, self._transform))
        else:
            self.written.fragments.append((number, part))


def write_part(folder: Path, split: str, number: int, rows: Rows, transform: Transform) -> SplitSummary:
    """Write one file of encoded impressions and return its counts."""
    name = f"{split}/part-{number:05d}.arrow"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, rows.columns())
    batch = transform.batch(rows)
    assert rows.labels is not None
    ids, dense = batch.sparse_ids.numpy(), batch.dense_features.numpy()
    starts = np.cumsum([0, *(f.width for f in transform.spec.dense)])[:-1]
    return SplitSummary(
        parts=[{"file": name, "rows": len(rows), "bytes": path.stat().st_size, "crc32": checksum(path)}],
        rows=len(rows),
        first_time=int(rows.times.min()),
        last_time=int(rows.times.max()),
        positives=_positives(rows.labels, transform.schema),
        missing=_ints([*(ids == PADDING_ID).sum(0), *np.isnan(dense[:, starts]).sum(0)]),
        out_of_vocabulary=_ints((ids == OOV_ID).sum(0)),
        lengths=[len(v) for v in batch.sequence_values.values()],
    )


def _positives(labels: NDArray[np.uint8 | np.float32], schema: Schema) -> list[int | float]:
    sums = labels.sum(0, dtype=np.float64).tolist()
    return [float(total) if label.soft else int(total) for total, label in zip(sums, schema.labels, strict=True)]


def _ints(counts: Any) -> list[int]:
    return [int(count) for count in counts]


def write_manifest(folder: Path, summaries: dict[str, SplitSummary], facts: dict[str, Any]) -> None:
    """Write the manifest of all files; its hash names the content."""
    content = hashlib.sha256((folder / "transform" / "transform.json").read_bytes())
    for summary in summaries.values():
        for part in summary.parts:
            content.update(part["crc32"].encode())
    manifest = {
        "format": FORMAT,
        "hash": content.hexdigest()[:16],
        **facts,
        "splits": {name: asdict(summary) for name, summary in summaries.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Encode:
    """Encodes the log and writes its parts.

    Args:
        folder: of the dataset, with its saved transform.
        splitter: the borders between the parts.
        rows: rows of every split in every piece, from the first pass; they tell where a row of a split belongs.
        part_rows: rows of a file.
    """

    folder: Path
    splitter: Splitter
    rows: dict[int, NDArray[np.int64]]
    part_rows: int
    title: str = "encoding"

    def run(self, tables: RawTables, shard: range) -> Steps[list[Written]]:
        """Encode a shard, which must be a run of pieces, and write the parts that lie in it whole."""
        transform = Transform.load(self.folder / "transform")
        totals = self._count(range(max(self.rows) + 1))
        before = self._count(range(shard.start))
        writers = [
            PartWriter(self.folder, split, transform, total=total, first=first, part_rows=self.part_rows)
            for split, total, first in zip(SPLITS, totals, before, strict=True)
        ]
        for placed in tables.pieces(shard):
            if placed.chunk is not None:
                rows = transform.encode(placed.chunk, labels=True, first_row=placed.first_row)
                split = self.splitter.assign(placed.chunk, rows.times, placed.first_row)
                for number, writer in enumerate(writers):
                    writer.add(rows.take(np.flatnonzero(split == number)))
            yield placed.step
        return [writer.close() for writer in writers]

    def _count(self, pieces: range) -> list[int]:
        counts = [rows for piece, rows in self.rows.items() if piece in pieces]
        return [int(count) for count in np.sum(counts, axis=0)] if counts else [0] * len(SPLITS)


def encode(reader: LogReader, task: Encode) -> dict[str, SplitSummary]:
    """Write the parts of all splits; parts that several workers share are assembled here."""
    written = reader.run(task, runs(task.rows, reader.workers))
    transform = Transform.load(task.folder / "transform") if len(written) > 1 else None
    summaries = {}
    for split, of_split in zip(SPLITS, zip(*written, strict=True), strict=True):
        parts = [summary for one in of_split for summary in one.parts]
        pieces: dict[int, list[Rows]] = {}
        for number, rows in (fragment for one in of_split for fragment in one.fragments):
            pieces.setdefault(number, []).append(rows)
        for number, fragments in pieces.items():
            assert transform is not None
            parts.append(write_part(task.folder, split, number, Rows.concatenate(fragments), transform))
        summaries[split] = add_up(sorted(parts, key=lambda part: (len(part.parts[0]["file"]), part.parts[0]["file"])))
    return summaries


def runs(rows: dict[int, NDArray[np.int64]], workers: int) -> Sequence[range]:
    """Cut the log into runs of pieces of about equal length, at most one a worker; the first begins at piece 0."""
    pieces = sorted(rows)
    ends = np.cumsum([rows[piece].sum() for piece in pieces])
    # the run of a piece is that of its last row
    run = ((ends - 1) * workers // max(1, ends[-1])).tolist()
    starts = [piece for n, piece in enumerate(pieces) if n and run[n] != run[n - 1]]
    return [range(a, b) for a, b in zip([0, *starts], [*starts, pieces[-1] + 1], strict=True)]
