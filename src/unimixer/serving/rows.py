"""Encoded rows of entities in growing arrays with a bound: the row that was not used for longest gives its place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimixer.data.arrays import Ragged

MISSING_SLOT = 0
"""Slot of the entity without a key; it is never given away."""


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

    Args:
        missing: one row, of the entity without a key.
        capacity: rows kept; more than any one request needs.
    """

    def __init__(self, missing: Encoded, capacity: int) -> None:
        self.capacity = capacity
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._free: list[int] = []
        self._rows = missing
        self._used = 1

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def missing(self, keys: Iterable[str | None]) -> list[str]:
        """Keys that are not kept, each once; those that are count as used now."""
        absent: dict[str, None] = {}
        slots = self._slots
        for key in keys:
            if key is None:
                continue
            if key in slots:
                slots.move_to_end(key)
            else:
                absent[key] = None
        return list(absent)

    def add(self, keys: Sequence[str], rows: Encoded) -> None:
        """Keep rows that are not kept yet."""
        for _ in range(len(self._slots) + len(keys) - self.capacity):
            self._free.append(self._slots.popitem(last=False)[1])
        self._grow(self._used + max(0, len(keys) - len(self._free)))
        slots = []
        for key in keys:
            if self._free:
                slot = self._free.pop()
            else:
                slot, self._used = self._used, self._used + 1
            self._slots[key] = slot
            slots.append(slot)
        _write(self._rows, np.asarray(slots, dtype=np.int64), rows)

    def take(self, keys: Sequence[str | None]) -> Encoded:
        """The rows of keys that are kept."""
        return self._rows.take(self._places(keys))

    def history(self, keys: Sequence[str]) -> NDArray[np.int32]:
        """What histories show of kept items."""
        return self._rows.history[self._places(keys)]

    def drop(self, keys: Iterable[str]) -> None:
        """Forget rows."""
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._free.append(slot)

    def clear(self) -> None:
        """Forget all rows."""
        self.drop(list(self._slots))

    def _places(self, keys: Sequence[str | None]) -> NDArray[np.int64]:
        slots = self._slots
        return np.asarray([MISSING_SLOT if key is None else slots[key] for key in keys], dtype=np.int64)

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
        _write(self._rows, at, old)


def _write(target: Encoded, slots: NDArray[np.int64], rows: Encoded) -> None:
    target.ids[slots], target.dense[slots] = rows.ids, rows.dense
    target.history[slots], target.revisions[slots] = rows.history, rows.revisions
    for name, lists in rows.lists.items():
        into: Mapping[str, Lists] = target.lists
        into[name].values[slots], into[name].lengths[slots] = lists.values, lists.lengths
