"""Counts of earlier impressions, as new columns of the log: how often this user has seen, or clicked, on this page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.count_settings import Count
from unimixer.data.encoding.arrays import read_arrays, write_arrays
from unimixer.data.encoding.entities import FIRST_ROW, KeyIndex
from unimixer.data.encoding.history import happened
from unimixer.data.raw import values
from unimixer.data.raw.tables import WHOLE, Chunk, Placed, RawTables
from unimixer.data.raw.times import as_time, day_numbers
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.progress import progress_bar

FILE = "counts.arrow"


def _no_numbers() -> NDArray[np.int64]:
    return np.zeros(FIRST_ROW, dtype=np.int64)


@dataclass(frozen=True)
class Totals:
    """The end of a log: groups of equal values, and of every group the impressions with the event and all of them."""

    groups: KeyIndex = field(default_factory=KeyIndex)
    events: NDArray[np.int64] = field(default_factory=_no_numbers)
    seen: NDArray[np.int64] = field(default_factory=_no_numbers)


def earlier(
    groups: NDArray[np.int32], times: NDArray[np.int64], counted: NDArray[np.bool_], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for every impression the number of counted impressions of its group that are strictly earlier.

    An impression at the very same time does not count: it may be the impression itself.

    Args:
        groups: of every impression; 0 is an impression without a group, whose count is 0.
        times: of every impression, in any unit: with days, the impressions of the same day do not count.
        counted: whether an impression counts.
        before: for every group its count from before the first of these impressions.

    Example:
        >>> groups, times = np.array([2, 2, 3, 2], dtype=np.int32), np.array([5, 9, 6, 9])
        >>> earlier(groups, times, np.array([True, True, False, True]), np.array([0, 0, 0, 4])).tolist()
        [0, 1, 4, 1]
    """
    order = np.lexsort((times, groups))
    sorted_groups, sorted_times = groups[order], times[order]
    sums: NDArray[np.int64] = np.cumsum(counted[order]) - counted[order]
    new_group = np.diff(sorted_groups, prepend=-1) != 0
    new_time = new_group | (np.diff(sorted_times, prepend=0) != 0)
    places = np.arange(len(order))
    numbers = np.empty(len(order), dtype=np.int64)
    first_of_group, first_of_time = (np.maximum.accumulate(np.where(new, places, 0)) for new in (new_group, new_time))
    numbers[order] = sums[first_of_time] - sums[first_of_group]
    return np.where(groups < FIRST_ROW, 0, numbers + before[groups])


def add_counts(tables: RawTables, before: Mapping[str, Totals] | None = None) -> tuple[RawTables, dict[str, Totals]]:
    """Add the columns of ``schema.counts`` to a log, by one more pass over it.

    Args:
        tables: the raw data. Memory grows with the log: 17 bytes a row and count, and the texts of the groups.
        before: what the days before this log have counted.

    Returns:
        the tables with the new columns, and what is counted at their end.

    Raises:
        UnimixerError: the log has a column with the name of a count, or not the columns that a count reads.
    """
    schema = tables.schema
    if not schema.counts:
        return tables, {}
    counters = {count.name: _Counter(count, before[count.name] if before else Totals()) for count in schema.counts}
    lookups = {name: _lookup(tables, name) for count in schema.counts for name in count.by}
    times: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    with progress_bar("counting earlier impressions", tables.num_rows) as advance:
        for placed in tables.pieces():
            assert placed.chunk is not None
            times.append(as_time(placed.chunk, schema.keys, placed.first_row))
            for counter in counters.values():
                counter.read(placed.chunk, schema, lookups)
            advance(placed.rows)
    moments = {"impression": np.concatenate(times)}
    if any(count.until == "day" for count in schema.counts):
        moments["day"] = day_numbers(moments["impression"], schema.keys.timezone)
    columns, totals = {}, {}
    for name, counter in counters.items():
        columns[name], totals[name] = counter.finish(moments[counter.count.until])
    reader = partial(_with_columns, tables, columns)
    return replace(tables, impressions=partial(_chunks, reader), reader=reader), totals


Lookup = Callable[[Chunk], pl.Series]
"""Gives the text of a column for every row of the log."""


class _Counter:
    """Collects the groups and events of one count, and works the column out at the end."""

    def __init__(self, count: Count, before: Totals) -> None:
        self.count, self.before, self.index = count, before, KeyIndex(before.groups.keys)
        self.groups: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
        self.events: list[NDArray[np.bool_]] = [np.zeros(0, dtype=np.bool_)]

    def read(self, chunk: Chunk, schema: Schema, lookups: Mapping[str, Lookup]) -> None:
        name = self.count.name
        if name in chunk.columns:
            raise UnimixerError(
                f"{chunk.source}: count {name!r} has the name of a column of the log; give the count another name"
            )
        texts = _joined([lookups[column](chunk) for column in self.count.by])
        self.index.add(texts)
        self.groups.append(self.index.lookup(texts))
        self.events.append(happened(self.count, schema, chunk))

    def finish(self, times: NDArray[np.int64]) -> tuple[NDArray[np.float32] | NDArray[np.int32], Totals]:
        """Return the column, and what is counted at its end."""
        groups, events = np.concatenate(self.groups), np.concatenate(self.events)
        everything = np.ones(len(events), dtype=np.bool_)

        def numbers(
            counted: NDArray[np.bool_], before: NDArray[np.int64]
        ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            start = np.zeros(len(self.index), dtype=np.int64)
            start[: len(before)] = before
            return earlier(groups, times, counted, start), start + np.bincount(groups[counted], minlength=len(start))

        happened_before, happened_in_all = numbers(events, self.before.events)
        seen_before, seen_in_all = numbers(everything, self.before.seen)
        totals = Totals(self.index, happened_in_all, seen_in_all)
        if self.count.prior is None:
            return happened_before.astype(np.int32), totals
        one = np.full(len(times), FIRST_ROW, dtype=np.int32)
        all_events, all_seen = (
            earlier(one, times, counted, np.array([0, 0, before.sum()]))
            for counted, before in ((events, self.before.events), (everything, self.before.seen))
        )
        rate = all_events / np.maximum(all_seen, 1)
        return ((happened_before + self.count.prior * rate) / (seen_before + self.count.prior)).astype(
            np.float32
        ), totals


def _joined(parts: list[pl.Series]) -> pl.Series:
    """Return one text for the values of every row, and none where a value is missing."""
    if len(parts) == 1:
        return parts[0]
    frame = pl.DataFrame([part.rename(str(number)) for number, part in enumerate(parts)])
    known = pl.all_horizontal(pl.all().is_not_null())
    return frame.select(pl.when(known).then(pl.struct(pl.all()).struct.json_encode())).to_series()


def _lookup(tables: RawTables, name: str) -> Lookup:
    """Return how the texts of a column are found: in the log, or by the keys of the log in a table."""
    keys = tables.schema.keys
    for table, key in ((tables.users, keys.user), (tables.items, keys.item)):
        if table is not None and key is not None and name != key and name in table.frame.columns:
            pair = pl.DataFrame(
                {"key": values.key_column(table, key), "text": values.key_column(table, name)}
            ).drop_nulls("key")
            return partial(_of_log_or_table, name, key, pair)
    return partial(_of_log, name)


def _of_log(name: str, chunk: Chunk) -> pl.Series:
    return values.key_column(chunk, name)


def _of_log_or_table(name: str, key: str, pair: pl.DataFrame, chunk: Chunk) -> pl.Series:
    if name in chunk.frame.columns:
        return _of_log(name, chunk)
    keys = pl.DataFrame({"key": values.key_column(chunk, key)})
    return keys.join(pair, on="key", how="left", maintain_order="left").get_column("text")


def _with_columns(tables: RawTables, columns: Mapping[str, NDArray[Any]], shard: range) -> Iterator[Placed]:
    for placed in tables.pieces(shard):
        if placed.chunk is None:
            yield placed
            continue
        part = slice(placed.first_row, placed.first_row + placed.chunk.frame.height)
        new = [pl.Series(name, column[part]) for name, column in columns.items()]
        yield replace(placed, chunk=replace(placed.chunk, frame=placed.chunk.frame.with_columns(new)))


def _chunks(reader: Callable[[range], Iterator[Placed]]) -> Iterator[Chunk]:
    for placed in reader(WHOLE):
        assert placed.chunk is not None
        yield placed.chunk


# ---- files ----------------------------------------------------------------------------------------------------------


def save_totals(folder: Path, totals: Mapping[str, Totals]) -> None:
    """Write what is counted at the end of a log, so that later days go on from there."""
    if totals:
        names = [name for name, total in totals.items() for _ in range(total.groups.keys.len())]
        texts = pl.concat([total.groups.keys for total in totals.values()])
        columns = {"count": pl.Series(names, dtype=pl.String), "group": texts}
        arrow = {name: column.to_arrow().cast("large_string") for name, column in columns.items()}
        numbers = {
            part: np.concatenate([getattr(total, part)[FIRST_ROW:] for total in totals.values()])
            for part in ("events", "seen")
        }
        write_arrays(folder / FILE, {**arrow, **numbers})


def load_totals(folder: Path, schema: Schema) -> dict[str, Totals]:
    """Read what :func:`save_totals` wrote."""
    if not schema.counts:
        return {}
    columns: dict[str, Any] = read_arrays(folder / FILE)
    frame = pl.DataFrame({name: pl.Series(name, columns[name]) for name in ("count", "group", "events", "seen")})
    totals = {}
    for count in schema.counts:
        part = frame.filter(pl.col("count") == count.name)
        special = np.zeros(FIRST_ROW, dtype=np.int64)
        events, seen = (np.concatenate([special, part.get_column(name).to_numpy()]) for name in ("events", "seen"))
        totals[count.name] = Totals(KeyIndex(part.get_column("group").cast(pl.String)), events, seen)
    return totals
