"""The dataset: a transform and memory-mapped parts of encoded impressions, checked before use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unimixer.data.encoding.arrays import checksum, read_arrays
from unimixer.data.encoding.entities import Match
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform import FORMAT, Transform
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError, unknown
from unimixer.io import DATASET, check_kind


@dataclass
class SplitSummary:
    """Counts of a split or of one of its parts; the counts of parts add up to those of the split."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    first_time: int = 0
    last_time: int = 0
    positives: list[int | float] = field(default_factory=list)
    """Impressions whose label is 1, for every label; the sum of the probabilities of a soft one."""
    missing: list[int] = field(default_factory=list)
    """Impressions without a value, for every id field, then every dense field."""
    out_of_vocabulary: list[int] = field(default_factory=list)
    """Impressions with an unknown value, for every id field."""
    lengths: list[int] = field(default_factory=list)
    """Total length of every sequence group."""


def dataset_path(name: str) -> Path:
    """Folder of prepared data: a path, or a name below ``$UNIMIXER_DATASETS`` (default ``datasets``)."""
    path = Path(name).expanduser()
    below = Path(os.environ.get("UNIMIXER_DATASETS", "datasets")) / name
    if path.exists() or len(path.parts) > 1 or path.is_absolute():
        return path
    return below


class Dataset:
    """A prepared dataset on disk.

    Args:
        folder: what ``unimixer data prepare`` wrote.

    Raises:
        UnimixerError: if the folder is not a dataset, or a file is missing, truncated or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        check_kind(self.folder, DATASET, marker="manifest.json", make="unimixer data prepare")
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
        """Hash of the content: equal hashes mean equal data."""
        return str(self.manifest["hash"])

    @property
    def matches(self) -> list[Match]:
        """Matches between the keys of the log and the entity tables; empty for a dataset of an older version."""
        return [Match(**match) for match in self.manifest.get("matches", [])]

    def summary(self, split: str) -> SplitSummary:
        """Return the counts of one split."""
        if split not in self._summaries:
            raise unknown("split", split, SPLITS)
        return self._summaries[split]

    def part(self, split: str, number: int) -> Rows:
        """Memory-map one part and verify its checksum the first time."""
        part = self.summary(split).parts[number]
        path = self.folder / part["file"]
        if part["file"] not in self._verified:
            if checksum(path) != part["crc32"]:
                raise UnimixerError(f"{path}: damaged (checksum differs); prepare the data again")
            self._verified.add(part["file"])
        return Rows.from_columns(read_arrays(path))

    def parts(self, split: str) -> Iterator[Rows]:
        """Yield all parts in order."""
        for number in range(len(self.summary(split).parts)):
            yield self.part(split, number)


def open_dataset(name: Path | str) -> Dataset:
    """Open a dataset by its path, or by its name below ``$UNIMIXER_DATASETS``."""
    return Dataset(dataset_path(str(name)))
