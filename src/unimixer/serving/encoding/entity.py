"""Encode stored rows of users or items with the transform of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.history import snapshot_lists
from unimixer.data.encoding.layout import is_dense, is_id
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature
from unimixer.serving.encoding.row_cache import Encoded, Lists
from unimixer.serving.stores.base import Kind
from unimixer.serving.stores.records import Columns, frame_of, series_of

SentColumns = Mapping[str, tuple[NDArray[np.int64], Sequence[Any]]]
"""Columns sent with a request: the numbers of the rows that have the column, and its values in these rows."""


class EntityEncoder:
    """Encode rows of users or of items for one bundle.

    Args:
        transform: transform of the bundle.
        kind: ``users`` or ``items``.
    """

    def __init__(self, transform: Transform, kind: Kind) -> None:
        self.transform, self.kind = transform, kind
        keys = transform.schema.keys
        self.key = keys.user if kind == "users" else keys.item
        self.features: list[Feature] = transform.features(kind)
        in_history = transform.history_features() if kind == "items" and self.key is not None else []
        self.has_history_features = bool(in_history)
        snapshots = [h for h in transform.schema.histories if h.snapshot is not None] if kind == "users" else []
        self.snapshots = {history.name: history for history in snapshots}
        self.read = frozenset(f.column for f in (*self.features, *in_history))
        """Columns that features read."""
        self.columns = self.read | {h.snapshot for h in snapshots if h.snapshot} | {self.key or ""} - {""}
        self.widths = {f.name: f.max_length for f in self.features if f.kind == "sequence"}
        self._id_at = {f.name: i for i, f in enumerate(f for f in self.features if is_id(f))}
        dense = [f for f in self.features if is_dense(f)]
        starts = np.cumsum([0, *(f.width or 1 for f in dense)])
        self._dense_at = {f.name: slice(starts[i], starts[i + 1]) for i, f in enumerate(dense)}

    def chunk(self, rows: Sequence[Mapping[str, Any]], columns: Columns) -> Chunk:
        """Convert stored rows to a raw table. A column that the store lacks is null in every row."""
        kinds = {name: columns.get(name, "null") for name in self.columns}
        if self.key is None:
            return Chunk(pl.DataFrame({"row": [0] * len(rows)}), self.kind)
        return Chunk(frame_of(rows, {**kinds, self.key: columns.get(self.key, "text")}), self.kind)

    def encode(self, chunk: Chunk, revisions: Sequence[int]) -> Encoded:
        """Encode raw rows; ``revisions`` are those of the stored rows."""
        ids, dense, lists = self.transform.encode_table(self.kind, chunk)
        empty = np.empty((len(ids), 0), dtype=np.int32)
        return Encoded(
            ids,
            dense,
            {name: Lists.of(ragged, self.widths[name]) for name, ragged in lists.items()},
            self.transform.history_columns(chunk) if self.has_history_features else empty,
            np.asarray(revisions, dtype=np.int64),
        )

    def missing(self) -> Encoded:
        """Encode the row of an entity without a key."""
        return self.encode(self.chunk([{}], {}), [0])

    def snapshot(self, chunk: Chunk) -> list[dict[str, list[str]]]:
        """Read the item keys of snapshot columns: one mapping per user, by name of the history."""
        lists = {name: snapshot_lists(history, chunk).to_list() for name, history in self.snapshots.items()}
        return [{name: keys[row] for name, keys in lists.items()} for row in range(chunk.frame.height)]

    def override(self, rows: Encoded, columns: SentColumns, where: str) -> None:
        """Replace stored columns by the columns sent with the request, as ``Transform.raw_batch`` does."""
        for feature in self.features:
            if feature.column not in columns or feature.column in self.transform.shadowed_columns:
                continue
            at, values = columns[feature.column]
            chunk = Chunk(pl.DataFrame([series_of(feature.column, values, where, at.tolist())]), where)
            if feature.name in self._id_at:
                rows.ids[at, self._id_at[feature.name]] = self.transform.id_column(feature, chunk)
            elif feature.name in self._dense_at:
                rows.dense[at, self._dense_at[feature.name]] = self.transform.dense_columns(feature, chunk)
            else:
                lists = Lists.of(self.transform.list_column(feature, chunk), feature.max_length)
                rows.lists[feature.name].values[at] = lists.values
                rows.lists[feature.name].lengths[at] = lists.lengths
