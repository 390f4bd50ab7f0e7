"""A bounded LRU cache of encoded entity rows, stored in arrays that grow on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Ragged

MISSING_SLOT = 0
"""Slot of the entity without a key; it is never evicted."""
NEVER = np.iinfo(np.int64).max
"""Stamp of a slot that must not be evicted: it is free, or it holds the missing entity."""
KEY_BYTES = 256
"""Largest average number of bytes of a cached key."""
EVICTED_SHARE = 64
"""A full cache evicts one in so many rows at once."""


@dataclass(frozen=True)
class Lists:
    """Hold n padded lists of ids of one feature: row i has ``lengths[i]`` valid ids."""

    values: NDArray[np.int32]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, ragged: Ragged, width: int) -> Lists:
        """Pad ragged lists to ``width``."""
        lengths = np.diff(ragged.offsets)
        values = np.zeros((len(lengths), width), dtype=np.int32)
        values[np.arange(width) < lengths[:, None]] = ragged.values
        return cls(values, lengths)

    def ragged(self) -> Ragged:
        """Concatenate the lists without their padding."""
        inside = np.arange(self.values.shape[1]) < self.lengths[:, None]
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return Ragged(self.values[inside], offsets)

    def take(self, rows: NDArray[np.int64]) -> Lists:
        """Copy some rows."""
        return Lists(self.values[rows], self.lengths[rows])


@dataclass(frozen=True)
class Encoded:
    """Hold n encoded entities.

    Shape:
        - ids: ``(n, F)`` int32; dense: ``(n, W)`` float32; lists[feature]: n lists
        - history: ``(n, C)`` int32, the columns that histories take from these items (items only)
        - revisions: ``(n,)`` int64, 0 for an entity that the store lacks
    """

    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    lists: dict[str, Lists]
    history: NDArray[np.int32]
    revisions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Copy some rows."""
        return Encoded(
            self.ids[rows],
            self.dense[rows],
            {name: lists.take(rows) for name, lists in self.lists.items()},
            self.history[rows],
            self.revisions[rows],
        )


class RowCache:
    """Cache at most ``capacity`` encoded entities by key and evict the least recently used ones.

    One array holds the last use of every slot, so a request marks all of its rows in one write. An eviction scans this
    array, so it removes a few more rows than needed. All rows have one size. Keys vary in size: together they take at
    most ``capacity * KEY_BYTES``, or the bytes of the running request's keys if these take more.

    Args:
        missing: one row, for the entity without a key.
        capacity: largest number of cached rows; must exceed the rows of any one request.
    """

    def __init__(self, missing: Encoded, capacity: int) -> None:
        self.capacity, self.key_bytes = capacity, 0
        self._slots: dict[Any, int] = {None: MISSING_SLOT}
        self._keys: list[str | None] = [None]
        self._free: list[int] = []
        self._rows = missing
        self._stamps = np.full(1, NEVER)
        self._request = 0

    def __len__(self) -> int:
        return len(self._slots) - 1

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def begin(self) -> None:
        """Begin a request: the rows that it uses stay cached until the next one begins."""
        self._request += 1

    def find(self, keys: Sequence[Any]) -> list[int | None]:
        """Return the slots of keys, with None for a key that is not cached."""
        return list(map(self._slots.get, keys))

    def use(self, slots: Sequence[int | None]) -> NDArray[np.int64]:
        """Mark slots as used by this request and return them as an array."""
        used = np.asarray(slots, dtype=np.int64)
        self._stamps[used] = self._request
        self._stamps[MISSING_SLOT] = NEVER
        return used

    def add(self, keys: Sequence[str], rows: Encoded) -> None:
        """Cache rows of keys that are not cached yet and mark them as used by this request."""
        self._make_room(len(keys), sum(map(getsizeof, keys)))
        slots = [self._free.pop() for _ in range(min(len(keys), len(self._free)))]
        slots += range(len(self._keys), len(self._keys) + len(keys) - len(slots))
        self._keys += [None] * (max(slots, default=0) + 1 - len(self._keys))
        self._grow(len(self._keys))
        self._slots.update(zip(keys, slots, strict=True))
        for key, slot in zip(keys, slots, strict=True):
            self._keys[slot] = key
            self.key_bytes += getsizeof(key)
        _write(self._rows, self.use(slots), rows)

    def take(self, slots: NDArray[np.int64]) -> Encoded:
        """Copy the rows of slots."""
        return self._rows.take(slots)

    def history(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """Copy the columns that histories take from the items in slots."""
        return self._rows.history[slots]

    def drop(self, keys: Iterable[str]) -> None:
        """Remove the rows of keys."""
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._free.append(slot)
                self.key_bytes -= getsizeof(key)
                self._keys[slot], self._stamps[slot] = None, NEVER

    def clear(self) -> None:
        """Remove all rows, except that of the missing entity."""
        self.drop([key for key in self._slots if key is not None])

    def _make_room(self, rows: int, key_bytes: int) -> None:
        while len(self) + rows > self.capacity or self.key_bytes + key_bytes > self.capacity * KEY_BYTES:
            count = min(max(len(self) + rows - self.capacity, self.capacity // EVICTED_SHARE, 1), len(self))
            oldest = np.argpartition(self._stamps, count - 1)[:count] if count else np.zeros(0, dtype=np.int64)
            old = oldest[self._stamps[oldest] < self._request]  # rows that this request uses stay
            if not len(old):
                return
            self.drop([key for key in map(self._keys.__getitem__, old.tolist()) if key is not None])

    def _grow(self, rows: int) -> None:
        size_before = len(self._rows)
        if rows <= size_before:
            return
        size = min(max(rows, 2 * size_before, 1024), self.capacity + 1)
        old, at = self._rows, np.arange(size_before)
        self._rows = Encoded(
            np.zeros((size, old.ids.shape[1]), dtype=np.int32),
            np.zeros((size, old.dense.shape[1]), dtype=np.float32),
            {
                name: Lists(np.zeros((size, lists.values.shape[1]), np.int32), np.zeros(size, np.int64))
                for name, lists in old.lists.items()
            },
            np.zeros((size, old.history.shape[1]), dtype=np.int32),
            np.zeros(size, dtype=np.int64),
        )
        self._stamps = np.concatenate([self._stamps, np.full(size - size_before, NEVER)])
        _write(self._rows, at, old)


def _write(target: Encoded, slots: NDArray[np.int64], rows: Encoded) -> None:
    target.ids[slots], target.dense[slots] = rows.ids, rows.dense
    target.history[slots], target.revisions[slots] = rows.history, rows.revisions
    for name, lists in rows.lists.items():
        into: Mapping[str, Lists] = target.lists
        into[name].values[slots], into[name].lengths[slots] = lists.values, lists.lengths
