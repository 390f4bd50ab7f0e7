"""What belongs to the impression itself: its time, and the columns of the log that features read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data import values
from unimixer.data.history import AFTER_THE_LOG
from unimixer.data.tables import Chunk
from unimixer.data.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.serving.records import series_of
from unimixer.serving.rows import Lists


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
        self.known = self.columns | ({self.time} if self.time else frozenset())
        self.widths = {f.name: f.max_length for f in features if f.kind == "sequence"}

    def read(
        self, given: Mapping[str, Any], items: Sequence[Mapping[str, Any]] | None, rows: int, now: int
    ) -> Context:
        """Encode the context of ``rows`` items.

        Raises:
            UnimixerError: a column is missing, or a value does not fit.
        """
        shared: list[pl.Series] = []
        time = AFTER_THE_LOG
        if self.time is not None:
            shared.append(self._time_column(given, now))
            time = int(values.as_time(Chunk(pl.DataFrame(shared), "context"), self.transform.schema.keys)[0])
        own: list[pl.Series] = []
        for name in sorted(self.columns - {self.time or ""}):
            with_it = [number for number, item in enumerate(items or ()) if name in item]
            if with_it and items is not None:
                own.append(series_of(name, self._merged(name, given, items)))
            elif name in given:
                shared.append(series_of(name, [given[name]]))
            else:
                raise UnimixerError(f"context: no column {name!r}; send it, null where the value is not known")
        if own:
            frame = pl.DataFrame([*own, *(column.new_from_index(0, rows) for column in shared)])
            ids, dense, lists = self.transform.encode_table("impressions", Chunk(frame, "items"))
            return Context(ids, dense, {name: Lists.of(r, self.widths[name]) for name, r in lists.items()}, time)
        frame = pl.DataFrame(shared) if shared else pl.DataFrame({"row": [0]})
        ids, dense, lists = self.transform.encode_table("impressions", Chunk(frame, "context"))
        every = np.zeros(rows, dtype=np.int64)
        padded = {name: Lists.of(ragged, self.widths[name]).take(every) for name, ragged in lists.items()}
        return Context(ids, dense, padded, time)

    def _time_column(self, given: Mapping[str, Any], now: int) -> pl.Series:
        assert self.time is not None
        if given.get(self.time) is not None:
            return series_of(self.time, [given[self.time]])
        return pl.Series(self.time, [datetime.fromtimestamp(now / 1000, tz=UTC)], dtype=pl.Datetime("ms", "UTC"))

    def _merged(self, name: str, given: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> list[Any]:
        """An item's own value, else that of the context."""
        found = []
        for number, item in enumerate(items):
            if name not in item and name not in given:
                raise UnimixerError(f"items, row {number + 1}: no column {name!r}; send it with every item")
            found.append(item[name] if name in item else given[name])
        return found
