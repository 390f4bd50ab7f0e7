"""Encode the context of a request: the time of the impression and the log columns that features read."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.history import AFTER_THE_LOG
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.times import as_time
from unimixer.serving.encoding.counts import NO_KEYS, Keys, RequestCounts, columns_of, merged, missing_column
from unimixer.serving.encoding.lru import LRUCache
from unimixer.serving.encoding.row_cache import Lists
from unimixer.serving.stores.records import series_of

QUARTER_MS = 900_000
"""Offsets of time zones are whole quarters of an hour, so the hour and the day are constant within a quarter."""
MAX_CACHED = 10_000
"""Largest number of cached contexts."""
MAX_CACHED_BYTES = MAX_CACHED * 2_048
"""Largest number of bytes that cached contexts and their keys take."""
_Row = tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Lists]]


@dataclass(frozen=True)
class Context:
    """Hold the encoded context columns: one row if all items share the context, otherwise one row per item."""

    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    lists: dict[str, Lists]
    time: int


class ContextEncoder:
    """Encode the context of requests.

    Args:
        transform: transform of the bundle.
    """

    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        self.time = transform.schema.keys.time
        features = transform.features("impressions")
        read = frozenset(f.column for f in features)
        self.counts = RequestCounts.of(transform)
        counted = frozenset() if self.counts is None else self.counts.names
        self._plain, self._counted = sorted(read - counted - {self.time or ""}), sorted(counted)
        self.columns = read - counted | (frozenset() if self.counts is None else self.counts.required)
        """Columns that every call must send, except the time."""
        asked = frozenset() if self.counts is None else self.counts.asked
        self.known = self.columns | read | asked | ({self.time} if self.time else frozenset())
        self.widths = {f.name: f.max_length for f in features if f.kind == "sequence"}
        by_hour = all(f.transform in ("hour", "weekday") for f in features if f.column == self.time)
        self._span = QUARTER_MS if by_hour else 1
        self._lock = threading.Lock()
        self._last_time: tuple[Any, tuple[pl.Series, int] | None] = (None, None)
        self._cache: LRUCache[_Row] = LRUCache(MAX_CACHED, MAX_CACHED_BYTES)

    @property
    def cached_bytes(self) -> int:
        """The bytes that cached contexts take."""
        return self._cache.num_bytes

    def read(
        self,
        context: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]] | None,
        rows: int,
        now: int,
        keys: Keys = NO_KEYS,
    ) -> Context:
        """Encode the context of ``rows`` items. A missing time is ``now``; counts that nobody sends are looked up.

        Raises:
            UnimixerError: a column is missing, or a value does not fit its column.
        """
        stamp, time = self.time_of(context, now)
        own, shared = {}, {}
        brought = columns_of(items)
        sent = [name for name in self._counted if name in context or name in brought]
        for name in (*self._plain, *sent):
            if items is not None and name in brought:
                own[name] = merged(name, context, items)
            elif name in context:
                shared[name] = context[name]
            else:
                raise missing_column(name)
        looked_up: list[pl.Series] = []
        if self.counts is not None and len(sent) < len(self._counted):
            looked_up = self.counts.find(sent, context, items, rows, keys)
        if not own and not looked_up:
            ids, dense, lists = self._shared(shared, stamp, now, time)
            repeats = np.zeros(rows, dtype=np.int64)
            return Context(ids, dense, {name: column.take(repeats) for name, column in lists.items()}, time)
        columns = [series_of(name, values, "items") for name, values in own.items()]
        columns += [series_of(name, [value], "context").new_from_index(0, rows) for name, value in shared.items()]
        columns += [column.new_from_index(0, rows) for column in self._time_column(stamp, now)] + looked_up
        return Context(*self._encode(columns, "items"), time)

    def time_of(self, context: Mapping[str, Any], now: int) -> tuple[pl.Series | None, int]:
        """Return the time that the context sends, as a column and in ms; otherwise ``now``.

        Raises:
            UnimixerError: it is no time.
        """
        if self.time is None:
            return None, AFTER_THE_LOG
        if context.get(self.time) is None:
            return None, now
        value = context[self.time]
        given, read = self._last_time  # the arm of a request is chosen by its time before it is encoded
        if read is None or type(given) is not type(value) or given != value:
            stamp = series_of(self.time, [value], "context")
            read = stamp, int(as_time(Chunk(pl.DataFrame([stamp]), "context"), self.transform.schema.keys)[0])
            self._last_time = value, read
        return read

    def _shared(self, columns: dict[str, Any], stamp: pl.Series | None, now: int, time: int) -> _Row:
        """Encode one row for all items and cache it: contexts take few values, and the hour changes seldom."""
        plain = tuple((type(v), tuple(v) if isinstance(v, list) else v) for v in columns.values())
        key = (plain, time // self._span)
        with self._lock:
            row = self._cache.get(key)
        if row is None:
            series = [series_of(name, [value], "context") for name, value in columns.items()]
            row = self._encode([*series, *self._time_column(stamp, now)], "context")
            with self._lock:
                self._cache.put(key, row)
        return row

    def _encode(self, columns: list[pl.Series], where: str) -> _Row:
        frame = pl.DataFrame(columns or {"row": [0]})
        ids, dense, lists = self.transform.encode_table("impressions", Chunk(frame, where))
        return ids, dense, {name: Lists.of(ragged, self.widths[name]) for name, ragged in lists.items()}

    def _time_column(self, stamp: pl.Series | None, now: int) -> list[pl.Series]:
        """Return the time that the call sends, otherwise the time of the call; no column if the schema has no time."""
        if self.time is None or stamp is not None:
            return [] if stamp is None else [stamp]
        return [pl.Series(self.time, [datetime.fromtimestamp(now / 1000, tz=UTC)], dtype=pl.Datetime("ms", "UTC"))]
