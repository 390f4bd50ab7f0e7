"""The dataset: a transform and memory-mapped parts of encoded impressions, checked before use."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from unimixer.data.encoding.arrays import checksum, read_arrays
from unimixer.data.encoding.entities import Match
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform import FORMAT, Transform
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError, unknown
from unimixer.io import DATASET, check_kind

DAYS = "days"
"""Folder of a dataset with one folder for every time that days were appended."""


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


def add_up(summaries: Sequence[SplitSummary]) -> SplitSummary:
    """Add up counts; the parts keep their order."""
    summaries = [summary for summary in summaries if summary.rows]
    return SplitSummary(
        parts=[part for s in summaries for part in s.parts],
        rows=sum(s.rows for s in summaries),
        first_time=min((s.first_time for s in summaries), default=0),
        last_time=max((s.last_time for s in summaries), default=0),
        positives=[_sum(column) for column in zip(*(s.positives for s in summaries), strict=True)],
        missing=_sums([s.missing for s in summaries]),
        out_of_vocabulary=_sums([s.out_of_vocabulary for s in summaries]),
        lengths=_sums([s.lengths for s in summaries]),
    )


def _sum(column: Sequence[int | float]) -> int | float:
    """Add up exactly, so that the order of the parts does not matter."""
    return math.fsum(column) if any(isinstance(value, float) for value in column) else sum(column)


def _sums(counts: Sequence[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


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
        at: hash of the content before later days were appended, for a view of the dataset as it was.
        transform: folder with the transform of that time, which a run keeps.

    Raises:
        UnimixerError: if the folder is not a dataset, or a file is missing, truncated or damaged, or never had the
            content ``at``.
    """

    def __init__(self, folder: Path | str, *, at: str | None = None, transform: Path | None = None) -> None:
        self.folder, self._transform = Path(folder), transform
        check_kind(self.folder, DATASET, marker="manifest.json", make="unimixer data prepare")
        path = self.folder / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise UnimixerError(
                    f"{path}: format {self.manifest['format']}, this version reads {FORMAT}; prepare the data again"
                )
            self.days = self._days()
            if at is not None and at != self.hash:
                self._go_back(at)
            self._summaries = {name: SplitSummary(**self.manifest["splits"][name]) for name in SPLITS}
            parts = [(part["file"], part["bytes"]) for s in self._summaries.values() for part in s.parts]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UnimixerError(f"{path}: damaged ({error!r:.100}); prepare the data again") from None
        self._verified: set[str] = set()
        for name, expected in parts:
            file = self.folder / name
            if not file.exists():
                raise UnimixerError(f"{file} is missing; prepare the data again")
            if (size := file.stat().st_size) != expected:
                raise UnimixerError(
                    f"{file} has {size} bytes, expected {expected}: truncated or changed; prepare the data again"
                )

    def _days(self) -> list[dict[str, Any]]:
        """Read the entries of the manifest that tell which days came when, the first preparation first.

        The hash of every entry covers the one before, so that no earlier day can be changed unnoticed.
        """
        if "days" not in self.manifest:
            return [{"hash": self.hash, "splits": self.manifest["splits"]}]
        days: list[dict[str, Any]] = self.manifest["days"]
        for before, day in pairwise(days):
            if chained(before["hash"], day["transform"], day["splits"]) != day["hash"]:
                path = self.folder / "manifest.json"
                raise UnimixerError(f"{path}: damaged: the hash of {day['last']} differs; prepare the data again")
        return days

    def _go_back(self, at: str) -> None:
        """Forget the days that were appended after the content had this hash."""
        hashes = [day["hash"] for day in self.days]
        if at not in hashes:
            raise UnimixerError(
                f"{self.folder} has content {self.hash} and never had {at}; name the dataset of the run"
            )
        self.days = self.days[: hashes.index(at) + 1]
        splits = {name: asdict(summary) for name, summary in current_splits(self.days).items()}
        self.manifest |= {"hash": at, "splits": splits, "days": self.days}

    def since(self, content: str) -> Dataset:
        """Return the dataset with those training rows only that did not train when it had another content.

        A content that it never had means other data, of which all rows train.

        Raises:
            UnimixerError: it has that content, so that no row is new.
        """
        hashes = [day["hash"] for day in self.days]
        if content not in hashes:
            return self
        if content == self.hash:
            raise UnimixerError(
                f"{self.folder} has no rows since content {content}; append a day first: unimixer data extend "
                f"{self.folder} --raw NEWDAY"
            )
        own, *later = (
            {n: SplitSummary(**s) for n, s in d["splits"].items()} for d in self.days[hashes.index(content) :]
        )
        new = [own["validation"], own["test"], *(part for splits in later[:-1] for part in splits.values())]
        view = copy(self)
        view._summaries = {**self._summaries, "train": add_up([*new, later[-1]["train"]])}
        return view

    @property
    def state_folder(self) -> Path:
        """The folder with the newest transform and the counts of values without a row."""
        return self.folder / str(self.manifest.get("state", ""))

    @property
    def transform_folder(self) -> Path:
        """The folder of the transform."""
        return self._transform or self.state_folder / "transform"

    @cached_property
    def transform(self) -> Transform:
        """The fitted transform."""
        return Transform.load(self.transform_folder)

    @property
    def hash(self) -> str:
        """Hash of the content: equal hashes mean equal data."""
        return str(self.manifest["hash"])

    @property
    def origin(self) -> dict[str, Any]:
        """Where the raw data came from; ``later`` lists the raw data of appended days."""
        later = [(day.get("origin") or {}).get("raw") for day in self.days[1:]]
        return {**(self.manifest.get("origin") or {}), **({"later": later} if later else {})}

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
        return self._read(self.summary(split).parts[number])

    def _read(self, part: dict[str, Any]) -> Rows:
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

    def day_parts(self, number: int) -> Iterator[Rows]:
        """Yield the parts of entry ``number`` of the days, in the order of time."""
        for name in SPLITS:
            yield from map(self._read, self.days[number]["splits"][name]["parts"])


def open_dataset(name: Path | str, *, at: str | None = None, transform: Path | None = None) -> Dataset:
    """Open a dataset by its path, or by its name below ``$UNIMIXER_DATASETS``; see :class:`Dataset`."""
    return Dataset(dataset_path(str(name)), at=at, transform=transform)


# ---- days -----------------------------------------------------------------------------------------------------------


def current_splits(days: Sequence[Mapping[str, Any]]) -> dict[str, SplitSummary]:
    """Return the parts after some days: all rows before the newest entry train, and its own parts stay as they are."""
    parts = [[SplitSummary(**day["splits"][name]) for name in SPLITS] for day in days]
    train = [summary for splits in parts[:-1] for summary in splits]
    return {
        name: add_up([*train, own] if name == "train" else [own]) for name, own in zip(SPLITS, parts[-1], strict=True)
    }


def day_hash(before: str, transform: bytes, splits: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of the entry of some days: that of its transform, and that of all days up to it."""
    own = hashlib.sha256(transform).hexdigest()
    return {"transform": own, "hash": chained(before, own, splits)}


def chained(before: str, transform: str, splits: Mapping[str, Any]) -> str:
    """Hash the hash of the days before, the transform and the parts of some days."""
    content = hashlib.sha256(f"{before}{transform}".encode())
    for summary in splits.values():
        for part in summary["parts"]:
            content.update(part["crc32"].encode())
    return content.hexdigest()[:16]
