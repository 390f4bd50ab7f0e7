"""An LRU cache bounded both in the number of its values and in the bytes that they take."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")
LARGE = 16
"""Largest size of one value, in averages: a few large values would evict many small ones."""


class LRUCache(Generic[Value]):
    """Cache values by key and evict the least recently used ones. Calls from several threads need a lock.

    Args:
        max_values: largest number of cached values.
        max_bytes: largest number of bytes that keys and values take together. A value of more than ``LARGE`` times the
            average is not cached.
    """

    def __init__(self, max_values: int, max_bytes: int) -> None:
        self.max_values, self.max_bytes, self.num_bytes = max_values, max_bytes, 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key and mark it as the most recently used one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Value) -> None:
        """Cache a value in place of the key's previous value."""
        self._remove(key)
        size = size_of(key) + size_of(value)
        if size > min(self.max_bytes, LARGE * self.max_bytes // self.max_values):
            return
        self._entries[key] = value, size
        self.num_bytes += size
        while self.num_bytes > self.max_bytes or len(self._entries) > self.max_values:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Remove all values."""
        self._entries.clear()
        self.num_bytes = 0

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry[1]


def size_of(value: Any) -> int:
    """Return the bytes that a value takes, including all of its parts."""
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + (0 if value.base is None else value.nbytes)
    if isinstance(value, (list, tuple)):
        return sys.getsizeof(value) + sum(map(size_of, value))
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(size_of(key) + size_of(entry) for key, entry in value.items())
    if is_dataclass(value):
        return sys.getsizeof(value) + sum(size_of(getattr(value, field.name)) for field in fields(value))
    return sys.getsizeof(value)
