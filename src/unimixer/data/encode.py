"""The second pass over the log: every worker encodes a run of pieces and writes the parts that lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unimixer.data.dataset import PartWriter, SplitSummary, Written, add_up, write_part
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.splits import Splitter
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import SPLITS
from unimixer.workers.tasks import Crew, Steps


@dataclass(frozen=True)
class Encode:
    """The pass as a task.

    Args:
        folder: of the store, with its saved transform.
        splitter: the borders between the parts.
        rows: rows of every split in every piece, from the first pass; they tell where a row of a split belongs.
        part_rows: rows of a file.
    """

    folder: Path
    splitter: Splitter
    rows: dict[int, NDArray[np.int64]]
    part_rows: int
    title: str = "encoding"

    def run(self, tables: RawTables, share: range) -> Steps[list[Written]]:
        """Encode a share, which must be a run of pieces, and write the parts that lie in it whole."""
        transform = Transform.load(self.folder / "transform")
        totals = self._count(range(max(self.rows) + 1))
        before = self._count(range(share.start))
        writers = [
            PartWriter(self.folder, split, transform, total=total, first=first, part_rows=self.part_rows)
            for split, total, first in zip(SPLITS, totals, before, strict=True)
        ]
        for placed in tables.pieces(share):
            if placed.chunk is not None:
                rows = transform.encode(placed.chunk, labels=True, first_row=placed.first_row)
                split = self.splitter(rows.times, placed.first_row)
                for number, writer in enumerate(writers):
                    writer.add(rows.take(np.flatnonzero(split == number)))
            yield placed.rows if placed.chunk is not None else 0, placed.first_row + placed.rows
        return [writer.close() for writer in writers]

    def _count(self, pieces: range) -> list[int]:
        counts = [rows for piece, rows in self.rows.items() if piece in pieces]
        return [int(count) for count in np.sum(counts, axis=0)] if counts else [0] * len(SPLITS)


def encode(crew: Crew, task: Encode) -> dict[str, SplitSummary]:
    """Write the parts of all splits; parts that several workers share are put together here."""
    written = crew.run(task, runs(task.rows, crew.workers))
    transform = Transform.load(task.folder / "transform") if len(written) > 1 else None
    summaries = {}
    for split, of_split in zip(SPLITS, zip(*written, strict=True), strict=True):
        found = [summary for one in of_split for summary in one.parts]
        pieces: dict[int, list[Rows]] = {}
        for number, rows in (fragment for one in of_split for fragment in one.fragments):
            pieces.setdefault(number, []).append(rows)
        for number, fragments in pieces.items():
            assert transform is not None
            found.append(write_part(task.folder, split, number, Rows.concatenate(fragments), transform))
        summaries[split] = add_up(found)
    return summaries


def runs(rows: dict[int, NDArray[np.int64]], workers: int) -> Sequence[range]:
    """Cut the log into runs of pieces of about equal length, at most one a worker; the first begins at piece 0."""
    pieces = sorted(rows)
    ends = np.cumsum([rows[piece].sum() for piece in pieces])
    # the run of a piece is that of its last row
    run = ((ends - 1) * workers // max(1, ends[-1])).tolist()
    starts = [piece for n, piece in enumerate(pieces) if n and run[n] != run[n - 1]]
    return [range(a, b) for a, b in zip([0, *starts], [*starts, pieces[-1] + 1], strict=True)]
