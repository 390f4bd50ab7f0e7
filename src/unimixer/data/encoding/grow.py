"""Grow a transform by later days: new rows go to the end of every table, and no row moves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import concatenate
from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, EntityTable, KeyIndex
from unimixer.data.encoding.fit import vocabulary_features
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.encoding.layout import is_id
from unimixer.data.encoding.pending import Pending, counted, without_rows
from unimixer.data.encoding.statistics import Statistics
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature, Origin, Schema


@dataclass(frozen=True)
class Grown:
    """A grown transform, and the counts of values that still have no row."""

    transform: Transform
    pending: Pending


def grow(old: Transform, statistics: Statistics, pending: Pending) -> Grown:
    """Append what later days have brought; statistics of numbers, edges of buckets and hashes stay as they are.

    Args:
        old: the transform of the days before.
        statistics: of the later days, joined with their tables.
        pending: counts of the days before.
    """
    counts = counted(old.vocabularies, statistics, pending)
    features = vocabulary_features(old.schema)
    vocabularies = dict(old.vocabularies)
    for name, frame in counts.items():
        vocabularies[name] = old.vocabularies[name].grown(frame, features[name].vocabulary)
    transform = replace(old, vocabularies=vocabularies)
    users, of_users = _grow_entities(transform, "users", old.users, statistics.users)
    items, of_items = _grow_entities(transform, "items", old.items, statistics.items)
    histories = {
        history.name: _grow_history(
            old.histories[history.name], statistics, history.name, of_users, of_items, len(old.users), len(users)
        )
        for history in old.schema.histories
    }
    left = {name: without_rows(frame, vocabularies[name]) for name, frame in counts.items()}
    return Grown(replace(transform, users=users, items=items, histories=histories), left)


def table_or_empty(schema: Schema, origin: Origin, table: Chunk | None, key: str | None) -> Chunk | None:
    """Return an empty table where a day comes without its users or items.

    A table that lacks a column stays as it is, so that it is refused where the column is read.
    """
    if key is None:
        return None
    if table is not None:
        return table
    names = {f.column for f in schema.features if (f.origin or "items") == origin} - {key}
    frame = pl.DataFrame(schema={key: pl.String, **dict.fromkeys(sorted(names), pl.Null)})
    return Chunk(frame, f"the {origin} of the log")


def _grow_entities(
    transform: Transform, origin: Origin, old: EntityTable, log: EntityLog
) -> tuple[EntityTable, NDArray[np.int32]]:
    """Encode the users or items of the later days; return the grown table and its row of every row of ``log``.

    Who stands in the table of the days, or is new, gets the features of the days. All others keep theirs, and only a
    key that had no row of its own may have one now.
    """
    if log.key is None:
        return old, np.arange(FIRST_ROW, dtype=np.int32)
    index = KeyIndex(old.index.keys)
    index.add(log.index.keys)
    rows = index.lookup(log.index.keys)
    of_table = np.zeros(len(rows), dtype=bool)
    of_table[log.of_table - FIRST_ROW] = True
    written = of_table | (rows >= len(old))
    chunk = log.chunk()
    ids, dense, lists = transform.encode_table(origin, chunk)
    shown = transform.history_features() if origin == "items" else []
    stacked = transform.history_columns(chunk) if shown else np.empty((len(ids), 0), dtype=np.int32)
    features = [f for f in transform.features(origin) if is_id(f)]

    def matrix(before: NDArray[Any], now: NDArray[Any], columns: list[Feature]) -> NDArray[Any]:
        whole = np.zeros((len(index), now.shape[1]), dtype=now.dtype)
        whole[: len(old), : before.shape[1]] = before[: len(old)]
        whole[rows[written]] = now[written]
        for number, feature in enumerate(columns):
            if feature.column == log.key:
                whole[FIRST_ROW:, number] = transform.vocabularies[feature.table_name].lookup(index.keys)
        return whole

    source = np.arange(len(index))  # of every list, in the old table followed by the log
    source[rows[written]] = len(old) + np.flatnonzero(written)
    table = EntityTable(
        index=index,
        ids=matrix(old.ids, ids, features),
        dense=matrix(old.dense, dense, []),
        lists={name: concatenate([old.lists[name], ragged]).take(source) for name, ragged in lists.items()},
        history_ids=matrix(old.history_ids, stacked, shown),
    )
    return table, np.concatenate([np.arange(FIRST_ROW, dtype=np.int32), rows])


def _grow_history(
    old: HistoryIndex,
    statistics: Statistics,
    name: str,
    of_users: NDArray[np.int32],
    of_items: NDArray[np.int32],
    known_users: int,
    num_users: int,
) -> HistoryIndex:
    """Append the events of the later days; a snapshot counts for new users only, others have their own past."""
    events = [one.mapped(of_users, of_items) for one in statistics.events[name]]
    users, items, times = (
        np.concatenate([np.empty(0, dtype=kind), *(getattr(one, field) for one in events)])
        for field, kind in (("users", np.int32), ("items", np.int32), ("times", np.int64))
    )
    snapshot = np.concatenate([np.full(len(one.users), one.piece < 0) for one in events] or [np.empty(0, dtype=bool)])
    kept = ~snapshot | (users >= known_users)
    return old.extended(users[kept], items[kept], times[kept], num_users=num_users)
