"""Counts of rows that come after a log: rows to predict and requests, from what the log has counted at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.count_settings import Count
from unimixer.data.encoding.arrays import read_arrays, write_arrays
from unimixer.data.encoding.counts import LogEnd, Totals, add_counts, counted_column, joined_texts
from unimixer.data.encoding.entities import FIRST_ROW, MISSING_ROW, UNKNOWN_ROW, KeyIndex
from unimixer.data.encoding.history import event_column
from unimixer.data.raw import values
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.times import as_time, dates_of, day_numbers
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError

FILE, TEXTS_FILE = "counts.arrow", "count-texts.arrow"


class SortedKeys:
    """Texts in order, in which a few are found quickly without a table of hashes."""

    def __init__(self, keys: pl.Series) -> None:
        order = keys.arg_sort()
        self._keys, self._rows = keys.gather(order), order.to_numpy().astype(np.int32)

    def find(self, keys: pl.Series) -> NDArray[np.int32]:
        """Return the place of every key among the texts as they were given; -1 where it is none of them."""
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int32)
        places = self._keys.search_sorted(keys).to_numpy()
        places = np.minimum(places, len(self._keys) - 1)
        same = (self._keys.gather(places) == keys).fill_null(False).to_numpy()
        return np.where(same, self._rows[places], np.int32(-1))


class LaterCounts:
    """The counts that a row after the log has, where no later impression is known.

    Args:
        counts: of the schema.
        end: of the log.
    """

    def __init__(self, counts: Sequence[Count], end: LogEnd) -> None:
        self.counts = tuple(counts)
        self._texts = {name: (key, SortedKeys(pair["key"]), pair["text"]) for name, (key, pair) in end.texts.items()}
        self._groups = {count.by: SortedKeys(end.totals[count.name].groups.keys) for count in counts}
        self._values = {count.name: _values(count, end.totals[count.name]) for count in counts}

    def needed(self, columns: Sequence[str]) -> dict[str, Count]:
        """Return the columns that rows must bring if they bring ``columns``, and a count that reads each."""
        lacking = [count for count in self.counts if count.name not in columns]
        return {
            name if name in columns or name not in self._texts else self._texts[name][0]: count
            for count in lacking
            for name in count.by
        }

    @property
    def columns(self) -> frozenset[str]:
        """All columns that counts read, of the log and of the tables."""
        return frozenset(name for count in self.counts for name in count.by)

    def fill(self, chunk: Chunk) -> Chunk:
        """Return the rows with the counts that they do not bring.

        Raises:
            UnimixerError: a column is missing that a count reads.
        """
        for name, count in self.needed(chunk.frame.columns).items():
            if name not in chunk.frame.columns:
                raise UnimixerError(
                    f"{chunk.source}: missing column {name!r}, by which {count.name!r} counts earlier impressions; "
                    f"bring it, or bring {count.name!r} itself"
                )
        lacking = [count for count in self.counts if count.name not in chunk.frame.columns]
        texts = {name: self.text(name, chunk) for count in lacking for name in count.by}
        groups = {by: self._groups_of(by, texts) for by in dict.fromkeys(count.by for count in lacking)}
        new = [pl.Series(count.name, self._values[count.name][groups[count.by]]) for count in lacking]
        return replace(chunk, frame=chunk.frame.with_columns(new))

    def _groups_of(self, by: tuple[str, ...], texts: Mapping[str, pl.Series]) -> NDArray[np.int32]:
        keys = joined_texts([texts[name] for name in by])
        places = self._groups[by].find(keys)
        groups = np.where(places >= 0, places + FIRST_ROW, UNKNOWN_ROW).astype(np.int32)
        groups[keys.is_null().to_numpy()] = MISSING_ROW
        return groups

    def text(self, name: str, chunk: Chunk) -> pl.Series:
        """Return the text of a column for every row: its own, or that of its user or item."""
        if name in chunk.frame.columns:
            return values.key_column(chunk, name)
        key, known, texts = self._texts[name]
        places = known.find(values.key_column(chunk, key))
        return texts.gather(pl.Series(places).replace(-1, None))


def _values(count: Count, total: Totals) -> NDArray[Any]:
    """Return the number or rate of every group: of a missing one, of a new one, and of those that are known."""
    new = len(total.groups)
    groups = np.concatenate([[MISSING_ROW, new], np.arange(FIRST_ROW, new)]).astype(np.int32)
    grown = Totals(total.groups, np.append(total.events, 0), np.append(total.seen, 0))
    nothing = np.zeros(len(groups), dtype=np.int64)
    return counted_column(count, groups, nothing, nothing.astype(np.bool_), grown)


def with_counts(tables: RawTables, end: LogEnd | None, tell: Callable[[str], None]) -> Iterator[Chunk]:
    """Give later rows the counts that they do not bring, as an appended day would get them.

    Rows with the outcomes that the counts read are impressions: each counts for the rows after it, as the log does.
    Other rows are candidates: each has the numbers at the end of the log.

    Args:
        tables: later rows, which are read twice if they are impressions.
        end: of the log; None where it is not known.
        tell: takes a line that says how the counts were computed.

    Raises:
        UnimixerError: the end of the log is not known, or rows are of a day that is counted already.
    """
    schema = tables.schema
    first = next(tables.impressions(), None)
    lacking = () if first is None else tuple(c for c in schema.counts if c.name not in first.frame.columns)
    if first is None or not lacking:
        yield from tables.impressions()
        return
    shown = lacking[0]
    if end is None:
        groups = " and ".join(shown.by)
        raise UnimixerError(
            f"{first.source}: missing column {shown.name!r}: it counts earlier impressions by {groups}, and this model "
            "does not keep what its log has counted; bring the column, or train on data that is prepared anew"
        )
    outcomes = outcome_columns(schema, lacking)
    absent = next((name for name in outcomes if name not in first.frame.columns), None)
    dated = schema.keys.time is not None
    until = f" up to {dates_of(np.array([end.last]), schema.keys.timezone)[0]}" if dated else ""
    rows = "and the earlier rows" if absent is None else f"alone, because the rows have no column {absent!r}"
    counts = f"{len(lacking)} counts of earlier impressions, such as {shown.name!r}"
    tell(f"note: {counts}, are computed from the log{until} {rows}")
    if absent is None:
        tables = add_counts(replace(tables, schema=schema.model_copy(update={"counts": lacking})), end)[0]
    later = LaterCounts(lacking, end)
    for chunk in tables.impressions():
        _check_days(chunk, schema, end, shown)
        yield chunk if absent is None else later.fill(chunk)


def outcome_columns(schema: Schema, counts: Sequence[Count] | None = None) -> list[str]:
    """Return the columns that later rows have if they are impressions: events of counts, or labels where none has."""
    chosen = schema.counts if counts is None else counts
    events = [name for count in chosen if (name := event_column(count, schema)) is not None]
    return list(dict.fromkeys(events or [label.column for label in schema.labels]))


def _check_days(chunk: Chunk, schema: Schema, end: LogEnd, count: Count) -> None:
    """Raise at a row of a day that the log has counted, or of one before it."""
    if schema.keys.time is None:
        return
    zone = schema.keys.timezone
    days, last = day_numbers(as_time(chunk, schema.keys), zone), day_numbers(np.array([end.last]), zone)[0]
    if (days <= last).any():
        shown = dates_of(np.array([end.last]), zone)[0]
        raise UnimixerError(
            f"{chunk.at(int((days <= last).argmax()))}: the log is counted up to {shown}, so the count {count.name!r} "
            "of a row of that day or before is not known; bring the columns of the counts, or rows of later days"
        )


# ---- files ----------------------------------------------------------------------------------------------------------


def save_log_end(folder: Path, end: LogEnd) -> list[str]:
    """Write what is counted at the end of a log, so that later days and later rows go on; return the names of files."""
    totals = end.totals
    names = [name for name, total in totals.items() for _ in range(total.groups.keys.len())]
    groups = pl.concat([total.groups.keys for total in totals.values()])
    numbers = {
        part: np.concatenate([getattr(total, part)[FIRST_ROW:] for total in totals.values()])
        for part in ("events", "seen")
    }
    write_arrays(folder / FILE, {**_arrow({"count": names, "group": groups}), **numbers})
    pairs = [(name, key, pair) for name, (key, pair) in end.texts.items()]
    if not pairs:
        return [FILE]
    columns = {
        "column": [name for name, _, pair in pairs for _ in range(pair.height)],
        "key_column": [key for _, key, pair in pairs for _ in range(pair.height)],
        **{part: pl.concat([pair[part] for _, _, pair in pairs]) for part in ("key", "text")},
    }
    write_arrays(folder / TEXTS_FILE, _arrow(columns))
    return [FILE, TEXTS_FILE]


def load_log_end(folder: Path, schema: Schema, last: int) -> LogEnd:
    """Read what :func:`save_log_end` wrote."""
    frame = _frame(folder / FILE, "count", "group", "events", "seen")
    totals = {}
    for count in schema.counts:
        part = frame.filter(pl.col("count") == count.name)
        special = np.zeros(FIRST_ROW, dtype=np.int64)
        events, seen = (np.concatenate([special, part.get_column(name).to_numpy()]) for name in ("events", "seen"))
        totals[count.name] = Totals(KeyIndex(part.get_column("group").cast(pl.String)), events, seen)
    texts = {}
    if (folder / TEXTS_FILE).exists():
        pairs = _frame(folder / TEXTS_FILE, "column", "key_column", "key", "text")
        for (name, key), pair in pairs.group_by("column", "key_column", maintain_order=True):
            texts[str(name)] = str(key), pair.select(pl.col("key", "text").cast(pl.String))
    return LogEnd(totals, texts, last)


def _arrow(columns: Mapping[str, Any]) -> dict[str, Any]:
    series = {name: pl.Series(name, column, dtype=pl.String) for name, column in columns.items()}
    return {name: column.to_arrow().cast("large_string") for name, column in series.items()}


def _frame(path: Path, *names: str) -> pl.DataFrame:
    columns: dict[str, Any] = read_arrays(path)
    return pl.DataFrame({name: pl.Series(name, columns[name]) for name in names})
