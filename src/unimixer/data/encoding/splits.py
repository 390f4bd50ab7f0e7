"""Assign impressions to the training, validation and test part: by time, at random, or as a column says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.label_settings import Label
from unimixer.data.raw import values
from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.times import midnight
from unimixer.data.schema import SPLITS, Schema
from unimixer.data.split_settings import ColumnSplit, DateSplit, RandomSplit
from unimixer.errors import UnimixerError

SAMPLE = 1_000_000
"""Quantiles and moments come from a uniform sample of this many values: exact for shorter data."""
SAMPLING_SEED = 0x5A17
"""Of the hash that samples negatives; other hashes of rows have small seeds."""


class Sample:
    """A uniform sample of a stream: the values whose row numbers have the smallest hashes.

    Which values those are depends on the stream alone, so samples of its parts merge to the sample of the whole.
    """

    def __init__(self, seed: int = 0, size: int = SAMPLE) -> None:
        self._seed, self._size = seed, size
        self._rows, self._values = np.empty(0, dtype=np.int64), np.empty(0)
        self._limit: np.uint64 | None = None

    def add(self, values: NDArray[np.float64], rows: NDArray[np.int64]) -> None:
        """Offer the values of some rows of the stream; NaN is left out."""
        offered = ~np.isnan(values)
        if self._limit is not None:  # a full sample takes few of a chunk, and only those need sorting
            offered &= _hashes(rows, self._seed) < self._limit
        if offered.any():
            self._keep(np.concatenate([self._rows, rows[offered]]), np.concatenate([self._values, values[offered]]))

    @classmethod
    def merge(cls, samples: Sequence[Sample]) -> Sample:
        """Merge samples of streams whose rows differ."""
        merged = cls(samples[0]._seed, samples[0]._size)
        merged._keep(np.concatenate([s._rows for s in samples]), np.concatenate([s._values for s in samples]))
        return merged

    @property
    def values(self) -> NDArray[np.float64]:
        """The sample, in the order of the stream."""
        return self._values[np.argsort(self._rows)]

    def _keep(self, rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        if len(rows) > self._size:
            hashes = _hashes(rows, self._seed)
            kept = np.argpartition(hashes, self._size)[: self._size]
            rows, values, self._limit = rows[kept], values[kept], hashes[kept].max()
        self._rows, self._values = rows, values


def draw_sample(
    values: NDArray[np.float64], counts: NDArray[np.int64], *, seed: int, size: int = SAMPLE
) -> NDArray[np.float64]:
    """Draw a uniform sample of values, each of which occurs some times, and keep their order; NaN is left out."""
    scale = max(1, int(counts.sum()) // (2 * SAMPLE))  # more values than that are not written out
    values = np.repeat(values, (counts + scale - 1) // scale)
    values = values[~np.isnan(values)]
    if len(values) <= size:
        return values
    keys = np.random.default_rng(seed).random(len(values))
    return values[np.sort(np.argpartition(keys, size)[:size])]


@dataclass(frozen=True)
class Splitter:
    """Assigns every impression to 0 (train), 1 (validation) or 2 (test), or to 3 (in no part)."""

    validation_from: float = 0.0
    test_from: float = 0.0
    random: RandomSplit | None = None
    column: ColumnSplit | None = None
    sampled: Label | None = None
    """Label of whose negatives the training part keeps a share."""

    @classmethod
    def fit(cls, schema: Schema, times: NDArray[np.float64] | None) -> Splitter:
        """Turn the schema's rule into two borders in time; ``times`` is a sample, needed for quantiles."""
        split, label = schema.split, schema.sampled_label
        sampled = None if label is None or label.presampled else label
        if isinstance(split, RandomSplit):
            if split.validation + split.test >= 1:
                raise UnimixerError("split: validation + test must leave a part for training")
            return cls(random=split, sampled=sampled)
        if isinstance(split, ColumnSplit):
            return cls(column=split, sampled=sampled)
        if isinstance(split, DateSplit):
            if schema.keys.time is None:
                raise UnimixerError("split by date needs keys.time; without it use {by: quantile}")
            if split.validation >= split.test:
                raise UnimixerError(f"split: validation={split.validation} must be before test={split.test}")
            validation, test = (float(midnight(d, schema.keys.timezone)) for d in (split.validation, split.test))
            return cls(validation, test, sampled=sampled)
        if split.validation >= split.test:
            raise UnimixerError(f"split: validation={split.validation} must be less than test={split.test}")
        assert times is not None
        if not len(times):
            raise UnimixerError(f"{schema.name}: the log has no rows")
        validation, test = (float(np.quantile(times, q, method="higher")) for q in (split.validation, split.test))
        if validation >= test:
            raise UnimixerError(
                f"split: the quantiles {split.validation} and {split.test} of time are both "
                f"{show_time(int(test), schema)}; choose others, or split by date"
            )
        return cls(validation, test, sampled=sampled)

    def assign(self, chunk: Chunk, times: NDArray[np.int64], first_row: int) -> NDArray[np.int8]:
        """Return the part of every impression of a chunk; which negatives are left out depends on their rows alone."""
        split = self(times, first_row) if self.column is None else _named_parts(chunk, self.column, first_row)
        if self.sampled is None or self.sampled.negative_sampling_rate is None:
            return split
        uniform = _uniform(np.arange(first_row, first_row + len(times)), SAMPLING_SEED)
        left_out = (uniform >= self.sampled.negative_sampling_rate) & (values.as_label(chunk, self.sampled) == 0)
        return np.where((split == 0) & left_out, len(SPLITS), split).astype(np.int8)

    def __call__(self, times: NDArray[np.int64], first_row: int) -> NDArray[np.int8]:
        """Return the part of every impression; ``first_row`` counts the rows of the log before these."""
        if self.random is None:
            return ((times >= self.validation_from).astype(np.int8) + (times >= self.test_from)).astype(np.int8)
        uniform = _uniform(np.arange(first_row, first_row + len(times)), self.random.seed)
        test = 1 - self.random.test
        return ((uniform >= test - self.random.validation).astype(np.int8) + (uniform >= test)).astype(np.int8)

    def check(self, rows: Sequence[int], span: tuple[float, float], schema: Schema) -> None:
        """Raise if a part got no impression; ``span`` holds the first and last time of the log."""
        for name, count in zip(SPLITS, rows, strict=True):
            if not sum(rows):
                raise UnimixerError(f"{schema.name}: the log has no rows")
            if not count:
                if isinstance(schema.split, ColumnSplit):
                    share = ", or take a share of the training rows by split.validation" * (name == "validation")
                    raise UnimixerError(
                        f"{schema.name}: the {name} part is empty: no row has {name!r} in column "
                        f"{schema.split.column!r}; correct the column{share}"
                    )
                first, last = (show_time(int(time), schema) for time in span)
                raise UnimixerError(
                    f"{schema.name}: the {name} part is empty: the log goes from {first} to {last}; "
                    "change 'split' in the schema"
                )


def _named_parts(chunk: Chunk, split: ColumnSplit, first_row: int) -> NDArray[np.int8]:
    """Return the part that a column names for every row, or ``len(SPLITS)`` where it is empty."""
    names = values.text_column(chunk, split.column)
    parts = {name: number for number, name in enumerate(SPLITS)}
    valid = names.is_null() | names.is_in(list(parts))
    rule = "is not train, validation or test"
    values.require(chunk, names, valid, rule, "leave it empty for rows that are only events of histories")
    numbers = names.replace_strict(parts, default=len(SPLITS), return_dtype=pl.Int8).to_numpy().copy()
    if split.validation is not None:
        if 1 in numbers:
            raise UnimixerError(
                f"{chunk.at(int((numbers == 1).argmax()))}: {split.column}='validation', but split.validation="
                f"{split.validation} takes a share of the training rows; drop one of them"
            )
        uniform = _uniform(np.arange(first_row, first_row + len(numbers)), 0)
        numbers[(numbers == 0) & (uniform < split.validation)] = 1
    return numbers


def show_time(time: int, schema: Schema) -> str:
    """Write a time of the log in its zone, or the row where the schema names no time."""
    if schema.keys.time is None:
        return f"row {time + 1:,}"
    zone_name = schema.keys.timezone
    return f"{datetime.fromtimestamp(time / 1000, ZoneInfo(zone_name)):%Y-%m-%d %H:%M} ({zone_name})"


def _hashes(rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Hash row numbers (splitmix64); different rows get different hashes."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _uniform(rows: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Map the hash to [0, 1), so that a row falls into the same part at any chunk size."""
    return (_hashes(rows, seed) >> np.uint64(11)).astype(np.float64) / 2.0**53
