"""Values that are kept in bounded memory: bounded in their number, and in the bytes that they take."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")
LARGE = 16
"""Times the average that one value takes at most: a few large ones would drive many others out."""


class Kept(Generic[Value]):
    """Values by key; where there is no room, those not used for longest go. One caller uses it at a time.

    Args:
        count: values kept at most.
        size: bytes that keys and values take at most; a value of more than ``LARGE`` times its share is not kept.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size, self.taken = count, size, 0
        self._found: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def get(self, key: Hashable) -> Value | None:
        """The value of a key; it counts as used."""
        found = self._found.get(key)
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value in the place of the one that the key has."""
        self._forget(key)
        size = size_of(key) + size_of(value)
        if size > min(self.size, LARGE * self.size // self.count):
            return
        self._found[key] = value, size
        self.taken += size
        while self.taken > self.size or len(self._found) > self.count:
            self._forget(next(iter(self._found)))

    def clear(self) -> None:
        """Forget all values."""
        self._found.clear()
        self.taken = 0

    def _forget(self, key: Hashable) -> None:
        found = self._found.pop(key, None)
        if found is not None:
            self.taken -= found[1]


def size_of(value: Any) -> int:
    """Bytes that a value takes, with all that it is made of."""
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + (0 if value.base is None else value.nbytes)
    if isinstance(value, (list, tuple)):
        return sys.getsizeof(value) + sum(map(size_of, value))
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(size_of(key) + size_of(entry) for key, entry in value.items())
    if is_dataclass(value):
        return sys.getsizeof(value) + sum(size_of(getattr(value, field.name)) for field in fields(value))
    return sys.getsizeof(value)
