"""Encoded rows of entities in growing arrays with a bound: the row that was not used for longest gives its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.arrays import Ragged

MISSING_SLOT = 0
"""Slot of the entity without a key; it is never given away."""
NEVER = np.iinfo(np.int64).max
"""The mark of a slot that is not to be given away: it is free already, or that of the missing entity."""
KEY_BYTES = 256
"""Bytes of a kept key on the average, at most."""
EVICTED = 64
"""Rows that go at once where there is no room: one of so many."""


@dataclass(frozen=True)
class Lists:
    """n lists of ids of one feature, padded: the first ``lengths[i]`` of row i count."""

    values: NDArray[np.int32]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, ragged: Ragged, width: int) -> Lists:
        """Padded lists of ragged ones."""
        lengths = np.diff(ragged.offsets)
        values = np.zeros((len(lengths), width), dtype=np.int32)
        values[np.arange(width) < lengths[:, None]] = ragged.values
        return cls(values, lengths)

    def ragged(self) -> Ragged:
        """The lists one after the other."""
        inside = np.arange(self.values.shape[1]) < self.lengths[:, None]
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        return Ragged(self.values[inside], offsets)

    def take(self, rows: NDArray[np.int64]) -> Lists:
        """Copies of some rows."""
        return Lists(self.values[rows], self.lengths[rows])


@dataclass(frozen=True)
class Encoded:
    """n encoded entities.

    Shape:
        - ids: ``(n, F)`` int32; dense: ``(n, W)`` float32; lists[feature]: n lists
        - history: ``(n, C)`` int32, what a history that met these items shows of them (items only)
        - revisions: ``(n,)`` int64, 0 where the store has no such entity
    """

    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    lists: dict[str, Lists]
    history: NDArray[np.int32]
    revisions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Copies of some rows."""
        return Encoded(
            self.ids[rows],
            self.dense[rows],
            {name: lists.take(rows) for name, lists in self.lists.items()},
            self.history[rows],
            self.revisions[rows],
        )


class RowCache:
    """Encoded entities by key, at most ``capacity`` of them.

    What was used when stands in one array by slot, so that a request marks its rows in one write. Where there is no
    room, those not used for longest go, and a few more than needed: it takes a pass over all. Rows have one size, and
    keys do not: together they take at most ``capacity * KEY_BYTES``, or what those of the running request take.

    Args:
        missing: one row, of the entity without a key.
        capacity: rows kept; more than any one request needs.
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
        """A request begins: rows that it uses stay until it ends."""
        self._request += 1

    def find(self, keys: Sequence[Any]) -> list[int | None]:
        """Slots of keys, None where one is not kept."""
        return list(map(self._slots.get, keys))

    def use(self, slots: Sequence[int | None]) -> NDArray[np.int64]:
        """Slots of kept keys as an array; they count as used by this request."""
        found = np.asarray(slots, dtype=np.int64)
        self._stamps[found] = self._request
        self._stamps[MISSING_SLOT] = NEVER
        return found

    def add(self, keys: Sequence[str], rows: Encoded) -> None:
        """Keep rows that are not kept yet; they count as used by this request."""
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
        """Rows of slots."""
        return self._rows.take(slots)

    def history(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """What histories show of the items in slots."""
        return self._rows.history[slots]

    def drop(self, keys: Iterable[str]) -> None:
        """Forget rows."""
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._free.append(slot)
                self.key_bytes -= getsizeof(key)
                self._keys[slot], self._stamps[slot] = None, NEVER

    def clear(self) -> None:
        """Forget all rows."""
        self.drop([key for key in self._slots if key is not None])

    def _make_room(self, rows: int, key_bytes: int) -> None:
        while len(self) + rows > self.capacity or self.key_bytes + key_bytes > self.capacity * KEY_BYTES:
            going = min(max(len(self) + rows - self.capacity, self.capacity // EVICTED, 1), len(self))
            oldest = np.argpartition(self._stamps, going - 1)[:going] if going else np.zeros(0, dtype=np.int64)
            old = oldest[self._stamps[oldest] < self._request]  # what this request uses stays
            if not len(old):
                return
            self.drop([key for key in map(self._keys.__getitem__, old.tolist()) if key is not None])

    def _grow(self, rows: int) -> None:
        have = len(self._rows)
        if rows <= have:
            return
        size = min(max(rows, 2 * have, 1024), self.capacity + 1)
        old, at = self._rows, np.arange(have)
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
        self._stamps = np.concatenate([self._stamps, np.full(size - have, NEVER)])
        _write(self._rows, at, old)


def _write(target: Encoded, slots: NDArray[np.int64], rows: Encoded) -> None:
    target.ids[slots], target.dense[slots] = rows.ids, rows.dense
    target.history[slots], target.revisions[slots] = rows.history, rows.revisions
    for name, lists in rows.lists.items():
        into: Mapping[str, Lists] = target.lists
        into[name].values[slots], into[name].lengths[slots] = lists.values, lists.lengths
