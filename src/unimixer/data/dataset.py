"""The encoded store: a transform and memory-mapped parts of encoded impressions, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.data.encoding.arrays import checksum, read_arrays, write_arrays
from unimixer.data.encoding.matching import Match
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform import FORMAT, Transform
from unimixer.data.schema import OOV_ID, PADDING_ID, SPLITS
from unimixer.errors import UnimixerError, unknown
from unimixer.io import STORE, check_kind

PART_ROWS = 131_072
"""Impressions in one file."""


@dataclass
class SplitSummary:
    """What a part of the data holds; counts, so that parts can be added up."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    first_time: int = 0
    last_time: int = 0
    positives: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    """Impressions without a value, for every id field, then every dense field."""
    out_of_vocabulary: list[int] = field(default_factory=list)
    """Impressions with an unknown value, for every id field."""
    lengths: list[int] = field(default_factory=list)
    """Total length of every sequence group."""


@dataclass
class Written:
    """What one writer made of a run of rows of a split."""

    parts: list[SplitSummary] = field(default_factory=list)
    fragments: list[tuple[int, Rows]] = field(default_factory=list)
    """Number of the part and rows, where others hold the rest of the part: at most one at either end."""


class PartWriter:
    """Writes encoded impressions of one split as files of ``part_rows`` rows.

    Args:
        folder: of the store.
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
        """Write what is left."""
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
    """Write one file of encoded impressions and say what it holds."""
    name = f"{split}/part-{number:05d}.arrow"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, rows.columns())
    batch = transform.batch(rows)
    assert rows.labels is not None
    ids, dense = batch.ids.numpy(), batch.dense.numpy()
    starts = np.cumsum([0, *(f.width for f in transform.spec.dense)])[:-1]
    return SplitSummary(
        parts=[{"file": name, "rows": len(rows), "bytes": path.stat().st_size, "crc32": checksum(path)}],
        rows=len(rows),
        first_time=int(rows.times.min()),
        last_time=int(rows.times.max()),
        positives=_ints(rows.labels.sum(0, dtype=np.int64)),
        missing=_ints([*(ids == PADDING_ID).sum(0), *np.isnan(dense[:, starts]).sum(0)]),
        out_of_vocabulary=_ints((ids == OOV_ID).sum(0)),
        lengths=[len(v) for v in batch.values.values()],
    )


def add_up(summaries: Sequence[SplitSummary]) -> SplitSummary:
    """The summary of all parts together, in the order of their numbers."""
    return SplitSummary(
        parts=sorted((part for s in summaries for part in s.parts), key=lambda part: (len(part["file"]), part["file"])),
        rows=sum(s.rows for s in summaries),
        first_time=min((s.first_time for s in summaries), default=0),
        last_time=max((s.last_time for s in summaries), default=0),
        positives=_sums([s.positives for s in summaries]),
        missing=_sums([s.missing for s in summaries]),
        out_of_vocabulary=_sums([s.out_of_vocabulary for s in summaries]),
        lengths=_sums([s.lengths for s in summaries]),
    )


def _ints(counts: Any) -> list[int]:
    return [int(count) for count in counts]


def _sums(counts: Sequence[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


def write_manifest(folder: Path, summaries: dict[str, SplitSummary], facts: dict[str, Any]) -> None:
    """Describe all files of a store; the hash names its content."""
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


def find_store(name: str) -> Path:
    """Folder of prepared data: a path, or a name below ``$UNIMIXER_STORES`` (default ``stores``)."""
    path = Path(name).expanduser()
    below = Path(os.environ.get("UNIMIXER_STORES", "stores")) / name
    if path.exists() or len(path.parts) > 1 or path.is_absolute():
        return path
    return below


class Store:
    """A prepared data set on disk.

    Args:
        folder: what ``unimixer data prepare`` wrote.

    Raises:
        UnimixerError: if the folder is not a store, or a file is missing, truncated or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        check_kind(self.folder, STORE, marker="manifest.json", make="unimixer data prepare")
        path = self.folder / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise UnimixerError(
                    f"{path}: format {self.manifest['format']}, this version reads {FORMAT}; prepare the data again"
                )
            self._summaries = {name: SplitSummary(**self.manifest["splits"][name]) for name in SPLITS}
            parts = [(part["file"], part["bytes"]) for s in self._summaries.values() for part in s.parts]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UnimixerError(f"{path}: damaged ({error!r}); prepare the data again") from None
        self._verified: set[str] = set()
        for name, expected in parts:
            file = self.folder / name
            if not file.exists():
                raise UnimixerError(f"{file} is missing; prepare the data again")
            if (size := file.stat().st_size) != expected:
                raise UnimixerError(
                    f"{file} has {size} bytes, expected {expected}: truncated or changed; prepare the data again"
                )

    @cached_property
    def transform(self) -> Transform:
        """The fitted transform."""
        return Transform.load(self.folder / "transform")

    @property
    def hash(self) -> str:
        """Names the content: equal hashes, equal data."""
        return str(self.manifest["hash"])

    @property
    def matches(self) -> list[Match]:
        """How many of the keys that the log names its tables have; empty for a store of an older version."""
        return [Match(**found) for found in self.manifest.get("matches", [])]

    def summary(self, split: str) -> SplitSummary:
        """Counts of one split."""
        if split not in self._summaries:
            raise unknown("split", split, SPLITS)
        return self._summaries[split]

    def part(self, split: str, number: int) -> Rows:
        """Memory-map one part; its checksum is verified the first time."""
        part = self.summary(split).parts[number]
        path = self.folder / part["file"]
        if part["file"] not in self._verified:
            if checksum(path) != part["crc32"]:
                raise UnimixerError(f"{path}: damaged (checksum differs); prepare the data again")
            self._verified.add(part["file"])
        return Rows.from_columns(read_arrays(path))

    def parts(self, split: str) -> Iterator[Rows]:
        """All parts in order."""
        for number in range(len(self.summary(split).parts)):
            yield self.part(split, number)
