"""Counts of earlier impressions, as new columns of the log: how often this user has seen, or clicked, on this page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.count_settings import Count
from unimixer.data.encoding.entities import FIRST_ROW, KeyIndex
from unimixer.data.encoding.history import happened
from unimixer.data.raw import values
from unimixer.data.raw.tables import WHOLE, Chunk, Placed, RawTables
from unimixer.data.raw.times import as_time, day_numbers
from unimixer.errors import UnimixerError
from unimixer.progress import progress_bar


def _no_numbers() -> NDArray[np.int64]:
    return np.zeros(FIRST_ROW, dtype=np.int64)


@dataclass(frozen=True)
class Totals:
    """The end of a log: groups of equal values, and of every group the impressions with the event and all of them."""

    groups: KeyIndex = field(default_factory=KeyIndex)
    events: NDArray[np.int64] = field(default_factory=_no_numbers)
    seen: NDArray[np.int64] = field(default_factory=_no_numbers)

    def grown(self, groups: KeyIndex) -> Totals:
        """Return the same numbers for an index that has grown, 0 for its new groups."""
        new = np.zeros(len(groups) - len(self.events), dtype=np.int64)
        return Totals(groups, np.concatenate([self.events, new]), np.concatenate([self.seen, new]))

    def after(self, groups: NDArray[np.int32], events: NDArray[np.bool_]) -> Totals:
        """Return the totals after some more impressions."""
        size = len(self.groups)
        seen, happenings = np.bincount(groups, minlength=size), np.bincount(groups[events], minlength=size)
        return Totals(self.groups, self.events + happenings, self.seen + seen)


NEVER = np.iinfo(np.int64).min
"""The last time of a log that has no rows."""


@dataclass(frozen=True)
class LogEnd:
    """What a log has counted at its end, and what later rows need to find their groups."""

    totals: Mapping[str, Totals] = field(default_factory=dict)
    """By count."""
    texts: Mapping[str, tuple[str, pl.DataFrame]] = field(default_factory=dict)
    """By column of ``by`` that stands in the users or items: their key column, and the columns ``key`` and ``text``."""
    last: int = NEVER
    """Time of the last impression, in ms."""


def earlier(
    groups: NDArray[np.int32], times: NDArray[np.int64], counted: NDArray[np.bool_], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for every impression the number of counted impressions of its group that are strictly earlier.

    An impression at the very same time does not count: it may be the impression itself.

    Args:
        groups: of every impression; 0 is an impression without a group, whose count is 0.
        times: of every impression, in any unit: with days, the impressions of the same day do not count.
        counted: whether an impression counts, once or in several columns.
        before: for every group its count from before the first of these impressions.

    Shape:
        - groups, times: ``(n,)``; counted, output: ``(n,)`` or ``(n, k)``; before: ``(G,)`` or ``(G, k)``

    Example:
        >>> groups, times = np.array([2, 2, 3, 2], dtype=np.int32), np.array([5, 9, 6, 9])
        >>> earlier(groups, times, np.array([True, True, False, True]), np.array([0, 0, 0, 4])).tolist()
        [0, 1, 4, 1]
    """
    order = np.lexsort((times, groups))
    sorted_groups, sorted_times = groups[order], times[order]
    sums: NDArray[np.int64] = np.cumsum(counted[order], axis=0) - counted[order]
    new_group = np.diff(sorted_groups, prepend=-1) != 0
    new_time = new_group | (np.diff(sorted_times, prepend=0) != 0)
    rows = np.arange(len(order))
    first_of_group, first_of_time = (np.maximum.accumulate(np.where(new, rows, 0)) for new in (new_group, new_time))
    numbers = np.empty_like(sums)
    numbers[order] = sums[first_of_time] - sums[first_of_group]
    numbers += before[groups]
    numbers[groups < FIRST_ROW] = 0
    return numbers


def add_counts(tables: RawTables, before: LogEnd | None = None) -> tuple[RawTables, LogEnd | None]:
    """Add the columns of ``schema.counts`` to a log, by one more pass over it.

    Args:
        tables: the raw data. Memory grows with the log: 8 bytes a row, 5 a row and count, 4 a row and choice of ``by``,
            and the texts of the groups.
        before: what the days before this log have counted.

    Returns:
        the tables with the new columns, and what is counted at their end; None without counts.

    Raises:
        UnimixerError: the log has a column with the name of a count, or not the columns that a count reads.
    """
    schema = tables.schema
    if not schema.counts:
        return tables, None
    start_of_log = before or LogEnd()
    totals, texts_of_tables = start_of_log.totals, _texts_of_tables(tables, start_of_log)
    lookups: dict[str, Lookup] = {
        name: partial(_of_log_or_table, name, *texts_of_tables[name])
        if name in texts_of_tables
        else partial(_of_log, name)
        for count in schema.counts
        for name in count.by
    }
    # counts by the same columns have the same groups
    indexes = {count.by: KeyIndex(totals.get(count.name, Totals()).groups.keys) for count in schema.counts}
    groups = {by: [np.zeros(0, dtype=np.int32)] for by in indexes}
    events = {count.name: [np.zeros(0, dtype=np.bool_)] for count in schema.counts}
    times = [np.zeros(0, dtype=np.int64)]
    with progress_bar("counting earlier impressions", tables.num_rows) as advance:
        for placed in tables.pieces():
            chunk = placed.chunk
            assert chunk is not None
            _check_names(schema.counts, chunk)
            times.append(as_time(chunk, schema.keys, placed.first_row))
            texts = {name: lookup(chunk) for name, lookup in lookups.items()}
            for by, index in indexes.items():
                keys = joined_texts([texts[name] for name in by])
                index.add(keys)
                groups[by].append(index.lookup(keys))
            for count in schema.counts:
                events[count.name].append(happened(count, schema, chunk))
            advance(placed.rows)
    moments = {"impression": np.concatenate(times)}
    if any(count.until == "day" for count in schema.counts):
        moments["day"] = day_numbers(moments["impression"], schema.keys.timezone)
    joined = {by: np.concatenate(parts) for by, parts in groups.items()}
    columns, ends = {}, {}
    for count in schema.counts:
        happenings, index = np.concatenate(events.pop(count.name)), indexes[count.by]
        start = totals.get(count.name, Totals()).grown(index)
        columns[count.name] = counted_column(count, joined[count.by], moments[count.until], happenings, start)
        ends[count.name] = start.after(joined[count.by], happenings)
    reader = partial(_with_columns, tables, columns)
    end = LogEnd(ends, texts_of_tables, int(moments["impression"].max(initial=start_of_log.last)))
    return replace(tables, impressions=partial(_chunks, reader), reader=reader), end


def _check_names(counts: Sequence[Count], chunk: Chunk) -> None:
    for count in counts:
        if count.name in chunk.columns:
            raise UnimixerError(
                f"{chunk.source}: count {count.name!r} has the name of a column of the log; give the count another name"
            )


def counted_column(
    count: Count, groups: NDArray[np.int32], times: NDArray[np.int64], events: NDArray[np.bool_], start: Totals
) -> NDArray[np.float32] | NDArray[np.int32]:
    """Return the numbers of a count, or its rates."""
    if count.prior is None:
        return earlier(groups, times, events, start.events).astype(np.int32)
    counted = np.stack([events, np.ones_like(events)], axis=1)
    numbers = np.stack([start.events, start.seen], axis=1)
    happened_before, seen_before = earlier(groups, times, counted, numbers).T
    # one group of all impressions that have one
    whole, special = np.minimum(groups, FIRST_ROW), np.zeros((FIRST_ROW, 2), dtype=np.int64)
    all_events, all_seen = earlier(whole, times, counted, np.concatenate([special, [numbers[FIRST_ROW:].sum(0)]])).T
    mean = all_events / np.maximum(all_seen, 1)
    rates = (happened_before + count.prior * mean) / (seen_before + count.prior)
    return rates.astype(np.float32)  # type: ignore[no-any-return]


Lookup = Callable[[Chunk], pl.Series]
"""Gives the text of a column for every row of the log."""


def joined_texts(parts: Sequence[pl.Series]) -> pl.Series:
    """Return one text for the values of every row, and none where a value is missing."""
    if len(parts) == 1:
        return parts[0]
    frame = pl.DataFrame([part.rename(str(number)) for number, part in enumerate(parts)])
    known = pl.all_horizontal(pl.all().is_not_null())
    return frame.select(pl.when(known).then(pl.struct(pl.all()).struct.json_encode())).to_series()


def _texts_of_tables(tables: RawTables, before: LogEnd) -> dict[str, tuple[str, pl.DataFrame]]:
    """Return the texts of the columns of ``by`` that stand in a table; keys that it lacks keep their earlier text."""
    keys, found = tables.schema.keys, dict(before.texts)
    for name in dict.fromkeys(name for count in tables.schema.counts for name in count.by):
        for table, key in ((tables.users, keys.user), (tables.items, keys.item)):
            if table is not None and key is not None and name != key and name in table.frame.columns:
                columns = {"key": values.key_column(table, key), "text": values.key_column(table, name)}
                pair = pl.DataFrame(columns).drop_nulls("key")
                if name in before.texts:
                    old = before.texts[name][1].join(pair, on="key", how="anti", maintain_order="left")
                    pair = pl.concat([old, pair])
                found[name] = key, pair
                break
    return found


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
