"""Counts of earlier impressions, as new columns of the log: how often this user has seen, or clicked, on this page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import read_arrays, write_arrays
from unimixer.data.encoding.entities import FIRST_ROW, KeyIndex
from unimixer.data.encoding.history import happened
from unimixer.data.raw import values
from unimixer.data.raw.tables import WHOLE, Chunk, Placed, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import Count, Schema
from unimixer.errors import UnimixerError
from unimixer.progress import progress_bar

FILE = "counts.arrow"


@dataclass(frozen=True)
class Totals:
    """The end of a log: groups of equal values, and how many impressions of each group were counted."""

    groups: KeyIndex
    numbers: NDArray[np.int64]
    """One for each row of ``groups``."""


def earlier(
    groups: NDArray[np.int32], times: NDArray[np.int64], counted: NDArray[np.bool_], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for every impression the number of counted impressions of its group that are strictly earlier.

    An impression at the very same time does not count: it may be the impression itself.

    Args:
        groups: of every impression; 0 is an impression without a group, whose count is 0.
        times: of every impression, in ms.
        counted: whether an impression counts.
        before: for every group its count from before the first of these impressions.

    Example:
        >>> groups, times = np.array([2, 2, 3, 2], dtype=np.int32), np.array([5, 9, 6, 9])
        >>> earlier(groups, times, np.array([True, True, False, True]), np.array([0, 0, 0, 4])).tolist()
        [0, 1, 4, 1]
    """
    order = np.lexsort((times, groups))
    sorted_groups, sorted_times = groups[order], times[order]
    sums = np.cumsum(counted[order]) - counted[order]
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
        tables: the raw data. Memory grows with the log: 13 bytes a row and count, and the texts of the groups.
        before: what the days before this log have counted.

    Returns:
        the tables with the new columns, and what is counted at their end.

    Raises:
        UnimixerError: the log has a column with the name of a count, or not the columns that a count reads.
    """
    schema = tables.schema
    if not schema.counts:
        return tables, {}
    times: list[NDArray[np.int64]] = []
    groups: dict[str, list[NDArray[np.int32]]] = {count.name: [] for count in schema.counts}
    counted: dict[str, list[NDArray[np.bool_]]] = {count.name: [] for count in schema.counts}
    indexes = {count.name: KeyIndex(before[count.name].groups.keys if before else None) for count in schema.counts}
    with progress_bar("counting earlier impressions", tables.num_rows) as advance:
        for placed in tables.pieces():
            assert placed.chunk is not None
            times.append(as_time(placed.chunk, schema.keys, placed.first_row))
            for count in schema.counts:
                texts = _texts(count, placed.chunk)
                indexes[count.name].add(texts)
                groups[count.name].append(indexes[count.name].lookup(texts))
                counted[count.name].append(happened(count, schema, placed.chunk))
            advance(placed.rows)
    if not times:
        return tables, {}
    all_times = np.concatenate(times)
    columns, totals = {}, {}
    for name, index in indexes.items():
        start = np.zeros(len(index), dtype=np.int64)
        if before:
            start[: len(before[name].numbers)] = before[name].numbers
        rows, events = np.concatenate(groups.pop(name)), np.concatenate(counted.pop(name))
        columns[name] = earlier(rows, all_times, events, start).astype(np.int32)
        totals[name] = Totals(index, start + np.bincount(rows[events], minlength=len(index)))
    reader = partial(_with_columns, tables, columns)
    return replace(tables, impressions=partial(_chunks, reader), reader=reader), totals


def _texts(count: Count, chunk: Chunk) -> pl.Series:
    """Return one text for the values of every row, without one where a value is missing."""
    if count.name in chunk.columns:
        raise UnimixerError(
            f"{chunk.source}: count {count.name!r} has the name of a column of the log; give the count another name"
        )
    parts = [values.key_column(chunk, name).rename(str(number)) for number, name in enumerate(count.by)]
    if len(parts) == 1:
        return parts[0]
    frame, known = pl.DataFrame(parts), pl.all_horizontal(pl.all().is_not_null())
    return frame.select(pl.when(known).then(pl.struct(pl.all()).struct.json_encode())).to_series()


def _with_columns(tables: RawTables, columns: Mapping[str, NDArray[np.int32]], shard: range) -> Iterator[Placed]:
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
        numbers = np.concatenate([total.numbers[FIRST_ROW:] for total in totals.values()])
        arrow = {name: column.to_arrow().cast("large_string") for name, column in columns.items()}
        write_arrays(folder / FILE, {**arrow, "number": numbers})


def load_totals(folder: Path, schema: Schema) -> dict[str, Totals]:
    """Read what :func:`save_totals` wrote."""
    if not schema.counts:
        return {}
    columns: dict[str, Any] = read_arrays(folder / FILE)
    frame = pl.DataFrame({name: pl.Series(name, columns[name]) for name in ("count", "group", "number")})
    totals = {}
    for count in schema.counts:
        part = frame.filter(pl.col("count") == count.name)
        numbers = np.concatenate([np.zeros(FIRST_ROW, dtype=np.int64), part.get_column("number").to_numpy()])
        totals[count.name] = Totals(KeyIndex(part.get_column("group").cast(pl.String)), numbers)
    return totals
