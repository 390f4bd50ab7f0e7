"""What belongs to the impression itself: its time, and the columns of the log that features read."""

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
from unimixer.errors import UnimixerError
from unimixer.serving.encoding.lru import Kept
from unimixer.serving.encoding.row_cache import Lists
from unimixer.serving.stores.records import series_of

QUARTER_MS = 900_000
"""Zones differ from UTC by whole quarters of an hour, so the hour and the day are the same within one."""
KEPT = 10_000
"""Encoded contexts that are kept at most."""
KEPT_BYTES = KEPT * 2_048
"""Bytes that they take at most, with the values that they were made from."""
_Row = tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Lists]]


@dataclass(frozen=True)
class Context:
    """Encoded columns of the impression: one row where all items share it, else one row an item."""

    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    lists: dict[str, Lists]
    time: int


class ContextEncoder:
    """The impression's part of a request.

    Args:
        transform: of the bundle.
    """

    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        self.time = transform.schema.keys.time
        features = transform.features("impressions")
        self.columns = frozenset(f.column for f in features)
        """Columns that every call brings, the time excepted."""
        self._plain = sorted(self.columns - {self.time or ""})
        self.known = self.columns | ({self.time} if self.time else frozenset())
        self.widths = {f.name: f.max_length for f in features if f.kind == "sequence"}
        by_hour = all(f.transform in ("hour", "weekday") for f in features if f.column == self.time)
        self._span = QUARTER_MS if by_hour else 1
        self._lock = threading.Lock()
        self._kept: Kept[_Row] = Kept(KEPT, KEPT_BYTES)

    @property
    def kept_bytes(self) -> int:
        """Bytes that kept contexts take."""
        return self._kept.taken

    def read(self, given: Mapping[str, Any], items: Sequence[Mapping[str, Any]] | None, rows: int, now: int) -> Context:
        """Encode the context of ``rows`` items.

        Raises:
            UnimixerError: a column is missing, or a value does not fit.
        """
        stamp, time = None, AFTER_THE_LOG
        if self.time is not None and given.get(self.time) is None:
            time = now
        elif self.time is not None:
            stamp = series_of(self.time, [given[self.time]], "context")
            time = int(as_time(Chunk(pl.DataFrame([stamp]), "context"), self.transform.schema.keys)[0])
        own, shared = {}, {}
        for name in self._plain:
            if items is not None and any(name in item for item in items):
                own[name] = _merged(name, given, items)
            elif name in given:
                shared[name] = given[name]
            else:
                raise UnimixerError(f"context: no column {name!r}; send it, null where the value is not known")
        if not own:
            ids, dense, lists = self._shared(shared, stamp, now, time)
            every = np.zeros(rows, dtype=np.int64)
            return Context(ids, dense, {name: found.take(every) for name, found in lists.items()}, time)
        columns = [series_of(name, found, "items") for name, found in own.items()]
        columns += [series_of(name, [value], "context").new_from_index(0, rows) for name, value in shared.items()]
        columns += [found.new_from_index(0, rows) for found in self._time_column(stamp, now)]
        return Context(*self._encode(columns, "items"), time)

    def _shared(self, columns: dict[str, Any], stamp: pl.Series | None, now: int, time: int) -> _Row:
        """One row for all items, which is kept: contexts have few values, and hours and days are long."""
        plain = tuple((type(v), tuple(v) if isinstance(v, list) else v) for v in columns.values())
        key = (plain, time // self._span)
        with self._lock:
            row = self._kept.get(key)
        if row is None:
            series = [series_of(name, [value], "context") for name, value in columns.items()]
            row = self._encode([*series, *self._time_column(stamp, now)], "context")
            with self._lock:
                self._kept.put(key, row)
        return row

    def _encode(self, columns: list[pl.Series], where: str) -> _Row:
        frame = pl.DataFrame(columns or {"row": [0]})
        ids, dense, lists = self.transform.encode_table("impressions", Chunk(frame, where))
        return ids, dense, {name: Lists.of(ragged, self.widths[name]) for name, ragged in lists.items()}

    def _time_column(self, stamp: pl.Series | None, now: int) -> list[pl.Series]:
        """The time that the call brings, else the time of the call; nothing where the schema has no time."""
        if self.time is None or stamp is not None:
            return [] if stamp is None else [stamp]
        return [pl.Series(self.time, [datetime.fromtimestamp(now / 1000, tz=UTC)], dtype=pl.Datetime("ms", "UTC"))]


def _merged(name: str, given: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> list[Any]:
    """An item's own value, else that of the context."""
    found = []
    for number, item in enumerate(items):
        if name not in item and name not in given:
            raise UnimixerError(f"items, row {number + 1}: no column {name!r}; send it with every item")
        found.append(item[name] if name in item else given[name])
    return found
