"""Histories of users: look up past events by user and time, the same way in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.count_settings import Count
from unimixer.data.encoding.arrays import Chained, Ragged, window_positions
from unimixer.data.label_settings import Label
from unimixer.data.raw import values
from unimixer.data.raw.lists import as_lists
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature, History, Schema

BEFORE_THE_LOG = np.iinfo(np.int64).min
"""Time of the events of a snapshot: earlier than every impression."""
AFTER_THE_LOG = np.iinfo(np.int64).max
"""Time of new rows where the log has no times: later than every impression."""


@dataclass(frozen=True)
class HistorySegment:
    """The events of a later day: of each of its users the last events before the day, then those of the day.

    Shape:
        - users: ascending rows of the users table
        - items, times: one list for each of these users
    """

    users: NDArray[np.int32]
    items: Ragged
    times: Ragged


@dataclass(frozen=True)
class HistoryIndex:
    """Events of every user, oldest first.

    Shape:
        - items: one list a user row, each entry a row of the items table
        - times: the same lists, event times in ms
    """

    items: Ragged
    times: Ragged
    max_length: int
    later: tuple[HistorySegment, ...] = ()
    """Events of later days, oldest first. Positions of windows count on over all segments, so old windows stay."""
    num_users: int = 0
    """Rows of the users table, where later days have brought users that ``items`` does not have."""

    @classmethod
    def build(
        cls,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        times: NDArray[np.int64],
        *,
        num_users: int,
        max_length: int,
    ) -> HistoryIndex:
        """Sort events by user and time; events of one user at one time keep their order."""
        order = np.lexsort((times, users))
        counts = np.bincount(users, minlength=num_users)
        offsets = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(Ragged(items[order], offsets), Ragged(times[order], offsets), max_length)

    def windows(self, users: NDArray[np.int32], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return start and length, (n, 2), of the last ``max_length`` events strictly earlier than each time.

        An event at the very time of the impression is not seen: it may be the impression itself.
        """
        first, last = self._spans[0][users], self._spans[1][users]
        start, stop = self._search(first, last, times)
        if self.later:
            # a segment repeats few of the events before it, so a time among those needs an older segment
            rows = np.flatnonzero((stop < last) & (stop - start < self.max_length))
            self._look_back(rows, users, times, start, stop)
        return np.stack([start, stop - start], axis=1)

    def _look_back(
        self,
        rows: NDArray[np.int64],
        users: NDArray[np.int32],
        times: NDArray[np.int64],
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
    ) -> None:
        """Replace the windows of some rows by longer ones of older segments of the same user."""
        if not len(rows):
            return
        newest, before, starts, stops = self._chain
        spans = before[newest[users[rows]]]
        while (older := spans >= 0).any():
            rows, spans = rows[older], spans[older]
            low, high = self._search(starts[spans], stops[spans], times[rows])
            longer = high - low > stop[rows] - start[rows]
            start[rows[longer]], stop[rows[longer]] = low[longer], high[longer]
            partial = (high < stops[spans]) & (high - low < self.max_length)
            rows, spans = rows[partial], before[spans[partial]]

    def _search(
        self, first: NDArray[np.int64], last: NDArray[np.int64], times: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return start and stop of the last ``max_length`` events before each time, among those of one span."""
        low, high = first.copy(), last.copy()
        # binary search in all rows at once, each inside its user's events
        while True:
            open_ = low < high
            if not open_.any():
                break
            middle = (low + high) // 2
            earlier = np.zeros(len(low), dtype=bool)
            earlier[open_] = self._times.take(middle[open_]) < times[open_]
            low = np.where(open_ & earlier, middle + 1, low)
            high = np.where(open_ & ~earlier, middle, high)
        return np.maximum(first, low - self.max_length), low

    def items_at(self, positions: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the items at some positions of windows."""
        return self._items.take(positions)

    def extended(
        self, users: NDArray[np.int32], items: NDArray[np.int32], times: NDArray[np.int64], *, num_users: int
    ) -> HistoryIndex:
        """Append the events of a later day as a segment, which repeats the last events of its users.

        Whatever the length of the past, this costs the events of the day and ``max_length`` events a user.
        """
        active = np.unique(users)
        known = active[active < len(self._spans[0])]
        ends = self._spans[1][known]
        lengths = np.minimum(ends - self._spans[0][known], self.max_length)
        positions, _ = window_positions(ends - lengths, lengths)
        owners = np.concatenate([np.repeat(known, lengths), users])
        all_items = np.concatenate([self._items.take(positions), items])
        all_times = np.concatenate([self._times.take(positions), times])
        order = np.lexsort((all_times, owners))  # stable: what was there before comes first
        offsets = np.zeros(len(active) + 1, dtype=np.int64)
        np.cumsum(np.bincount(np.searchsorted(active, owners), minlength=len(active)), out=offsets[1:])
        segment = HistorySegment(active, Ragged(all_items[order], offsets), Ragged(all_times[order], offsets))
        return replace(self, later=(*self.later, segment), num_users=num_users)

    def columns(self) -> list[dict[str, Any]]:
        """Return named columns for files: one file of the first days, then one for every later day."""
        first: dict[str, Any] = {"items": self.items, "times": self.times}
        return [first, *({"users": one.users, "items": one.items, "times": one.times} for one in self.later)]

    @classmethod
    def from_columns(cls, columns: Sequence[Mapping[str, Any]], max_length: int, num_users: int) -> HistoryIndex:
        """Build an index from the columns of :meth:`columns`."""
        later = tuple(HistorySegment(**one) for one in columns[1:])
        return cls(columns[0]["items"], columns[0]["times"], max_length, later, num_users)

    @cached_property
    def _spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last + 1 position of the events of every user, in the newest segment that has the user."""
        offsets = self.items.offsets
        if not self.later and self.num_users <= len(self.items):
            return offsets[:-1], offsets[1:]
        starts, ends = np.zeros((2, max(self.num_users, len(self.items))), dtype=np.int64)
        starts[: len(self.items)], ends[: len(self.items)] = offsets[:-1], offsets[1:]
        before = len(self.items.values)
        for segment in self.later:
            starts[segment.users] = before + segment.items.offsets[:-1]
            ends[segment.users] = before + segment.items.offsets[1:]
            before += len(segment.items.values)
        return starts, ends

    @cached_property
    def _chain(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The newest span of every user; and of every span the one before of its user or -1, its start and its stop."""
        offsets, at = self.items.offsets, len(self.items.values)
        newest = np.full(len(self._spans[0]), -1, dtype=np.int64)
        newest[: len(self.items)] = np.arange(len(self.items))
        before, starts, stops = [np.full(len(self.items), -1, dtype=np.int64)], [offsets[:-1]], [offsets[1:]]
        count = len(self.items)
        for segment in self.later:
            before.append(newest[segment.users])
            newest[segment.users] = count + np.arange(len(segment.users))
            starts.append(at + segment.items.offsets[:-1])
            stops.append(at + segment.items.offsets[1:])
            count, at = count + len(segment.users), at + len(segment.items.values)
        return newest, np.concatenate(before), np.concatenate(starts), np.concatenate(stops)

    @cached_property
    def _items(self) -> Chained:
        return Chained([self.items.values, *(segment.items.values for segment in self.later)])

    @cached_property
    def _times(self) -> Chained:
        return Chained([self.times.values, *(segment.times.values for segment in self.later)])


def event_label(reader: History | Count, schema: Schema) -> Label | None:
    """Return the label that the event of a history or a count names, or None if it names a column."""
    return next((label for label in schema.labels if label.name == reader.event), None)


def event_column(reader: History | Count, schema: Schema) -> str | None:
    """Return the column of the log that tells whether the event of a history or a count happened."""
    label = event_label(reader, schema)
    return reader.event if label is None else label.column


def happened(reader: History | Count, schema: Schema, chunk: Chunk) -> NDArray[np.bool_]:
    """Select the impressions that enter a history or a count: event column 1, or label true; empty is not an event.

    Raises:
        UnimixerError: the column is graded, and the event does not name the label with its threshold.
    """
    name, label = event_column(reader, schema), event_label(reader, schema)
    words = f"{'history' if isinstance(reader, History) else 'count'} {reader.name!r}"
    if name is None:
        return np.ones(chunk.frame.height, dtype=np.bool_)
    numbers = values.as_number(chunk, name, way_out=f"an event of {words} is 0 or 1, or empty")
    if label is not None and label.threshold is not None:
        reached: NDArray[np.bool_] = numbers >= label.threshold  # false for NaN
        return reached
    labels = [one.name for one in schema.labels if one.column == name and one.threshold is not None]
    values.require(
        chunk,
        values.column(chunk, name),
        pl.Series(np.isnan(numbers) | (numbers == 0) | (numbers == 1)),
        "is not 0 or 1",
        f"let event of {words} name " + (f"the label {labels[0]!r}" if labels else "a label with a threshold"),
    )
    entered: NDArray[np.bool_] = numbers == 1
    return entered


def snapshot_lists(history: History, users: Chunk) -> pl.Series:
    """Return the last ``max_length`` item keys from before the log for each user, oldest first."""
    assert history.snapshot is not None
    raw = values.column(users, history.snapshot)
    if isinstance(raw.dtype, (pl.List, pl.Array)) and raw.dtype.inner.is_float():
        largest = raw.cast(pl.List(raw.dtype.inner)).list.eval(pl.element().abs()).list.max()
        values.check_exact(users, largest.rename(history.snapshot))
    feature = Feature(
        name=history.snapshot,
        kind="sequence",
        domain="user",
        max_length=history.max_length,
        separator=history.separator,
    )
    return as_lists(users, feature)
