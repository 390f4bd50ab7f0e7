"""Statistics of a log and its entity tables, from which the transform is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, Match, match
from unimixer.data.encoding.history import BEFORE_THE_LOG, happened, snapshot_lists
from unimixer.data.encoding.layout import features_of
from unimixer.data.encoding.splits import Sample, Splitter, draw_sample
from unimixer.data.encoding.vocabulary import Counter, texts_of
from unimixer.data.raw import values
from unimixer.data.raw.lists import as_lists, flat_texts
from unimixer.data.raw.tables import Chunk, Placed, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import SPLITS, Feature, History, Schema

T = TypeVar("T")


@dataclass(frozen=True)
class Events:
    """Events of a history in the order of one piece: rows of the users and the items that met, and times."""

    piece: int
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64]

    def mapped(self, users: NDArray[np.int32], items: NDArray[np.int32]) -> Events:
        """Return the same events with other row numbers."""
        return Events(self.piece, users[self.users], items[self.items], self.times)


@dataclass
class Statistics:
    """Counts, samples, keys and events of some pieces of the log; counts and samples are of the training part alone.

    :meth:`merge` gives the same whole however the pieces were assigned to workers: counts add up, a sample is chosen by
    the numbers of the rows, keys and events know their piece.
    """

    schema: Schema
    users: EntityLog
    items: EntityLog
    events: dict[str, list[Events]]
    """Events of every history, from all parts of the data."""
    counters: dict[str, Counter] = field(default_factory=dict)
    held_out: dict[str, Counter] = field(default_factory=dict)
    """Counts of the validation and test part: their rows train once later days are appended."""
    samples: dict[str, Sample] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    rows: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """Rows of every split, by piece."""
    span: tuple[float, float] = (np.inf, -np.inf)
    """First and last time."""
    longest: dict[str, int] = field(default_factory=dict)
    """Length of the longest list of every sequence that a separator cuts."""
    entity_numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Samples of the numeric features of users and items."""

    @classmethod
    def empty(cls, schema: Schema) -> Statistics:
        """Start without tables, for pieces of the log."""
        keys = schema.keys
        return cls(
            schema, EntityLog(None, keys.user), EntityLog(None, keys.item), {h.name: [] for h in schema.histories}
        )

    @classmethod
    def of_tables(cls, schema: Schema, tables: RawTables) -> Statistics:
        """Start with the keys of the entity tables, then those of the items of the snapshots."""
        keys = schema.keys
        statistics = cls(schema, EntityLog(tables.users, keys.user), EntityLog(tables.items, keys.item), {})
        for history in schema.histories:
            known = tables.users is not None and history.snapshot in tables.users.columns
            statistics.events[history.name] = [statistics._snapshot_events(history)] if known else []
        return statistics

    def _snapshot_events(self, history: History) -> Events:
        """Events from before the log; they also count for the vocabularies of the items, being older than training."""
        assert self.users.table is not None
        lists = snapshot_lists(history, self.users.table)
        lengths = lists.list.len().to_numpy()
        users = np.repeat(np.arange(FIRST_ROW, FIRST_ROW + len(lengths), dtype=np.int32), lengths)
        items = self.items.rows_of(flat_texts(lists))
        self.items.train_counts += np.bincount(items, minlength=len(self.items.index))
        return Events(-1, users, items, np.full(len(users), BEFORE_THE_LOG))

    # ---- pieces of the log ------------------------------------------------------------------------------------------

    def add(self, placed: Placed, splitter: Splitter) -> None:
        """Read one chunk of the log."""
        chunk, schema = placed.chunk, self.schema
        assert chunk is not None
        times = as_time(chunk, schema.keys, placed.first_row)
        split = splitter.assign(chunk, times, placed.first_row)
        self.columns |= set(chunk.frame.columns)
        before = self.rows.get(placed.piece, np.zeros(len(SPLITS), dtype=np.int64))
        self.rows[placed.piece] = before + np.bincount(split, minlength=len(SPLITS))[: len(SPLITS)]
        if len(times):
            self.span = min(self.span[0], int(times.min())), max(self.span[1], int(times.max()))
        users, items = (log.read(chunk, placed.piece, split == 0) for log in (self.users, self.items))
        self._add_features(placed, split == 0)
        for history in schema.histories:
            assert users is not None
            assert items is not None
            # impressions without a user or an item are nobody's past
            past = (users >= FIRST_ROW) & (items >= FIRST_ROW) & happened(history, schema, chunk)
            self.events[history.name].append(Events(placed.piece, users[past], items[past], times[past]))

    def _add_features(self, placed: Placed, train: NDArray[np.bool_]) -> None:
        chunk, rows = placed.chunk, placed.first_row + np.flatnonzero(train)
        assert chunk is not None
        for feature in features_of(self.schema, "impressions"):
            if feature.kind == "sequence":
                lists = self._lists(feature, chunk)
                repeats = lists.list.len().to_numpy()
                self._count_parts(
                    feature, chunk, flat_texts(lists), np.repeat(train, repeats), np.repeat(~train, repeats)
                )
            elif feature.kind == "numeric":
                numbers = values.as_number(chunk, feature.column, feature.missing)[train]
                self.sample(feature).add(numbers, rows)
            elif feature.kind == "categorical":
                self._count_parts(feature, chunk, texts_of(feature, chunk, self.schema.keys), train, ~train)

    def _lists(self, feature: Feature, chunk: Chunk) -> pl.Series:
        """Read the lists of a sequence."""
        lists = as_lists(chunk, feature)
        if feature.separator is not None:
            lengths = lists.list.len().to_numpy()
            self.longest[feature.name] = max(self.longest.get(feature.name, 0), int(lengths.max(initial=0)))
        return lists

    def _count_parts(
        self, feature: Feature, chunk: Chunk, texts: pl.Series, trained: NDArray[Any], held_out: NDArray[Any]
    ) -> None:
        """Count the texts that the column of a feature in a chunk gives, each as often as either part names it."""
        for counters, weights in ((self.counters, trained), (self.held_out, held_out)):
            counter = counters.setdefault(feature.table_name, Counter())
            counter.typed = counter.typed or values.has_own_form(chunk, feature.column)
            chosen = weights > 0
            counter.add(texts.filter(pl.Series(chosen)), weights[chosen].astype(np.int64))

    def sample(self, feature: Feature) -> Sample:
        """Return the sample of the numbers of a feature."""
        return self.samples.setdefault(feature.name, Sample(seed=self.schema.features.index(feature)))

    @classmethod
    def merge(cls, parts: Sequence[Statistics]) -> Statistics:
        """Return the statistics of all pieces together."""
        if len(parts) == 1:
            return parts[0]
        users, new_users = EntityLog.merge([part.users for part in parts])
        items, new_items = EntityLog.merge([part.items for part in parts])
        events: dict[str, list[Events]] = {}
        for name in parts[0].events:
            mapped = [
                one.mapped(of_users, of_items)
                for part, of_users, of_items in zip(parts, new_users, new_items, strict=True)
                for one in part.events[name]
            ]
            events[name] = sorted(mapped, key=lambda one: one.piece)  # stable: chunks of one piece keep their order
        return cls(
            parts[0].schema,
            users,
            items,
            events,
            {name: Counter.merge(all_) for name, all_ in _by_name([part.counters for part in parts]).items()},
            {name: Counter.merge(all_) for name, all_ in _by_name([part.held_out for part in parts]).items()},
            {name: Sample.merge(all_) for name, all_ in _by_name([part.samples for part in parts]).items()},
            set().union(*(part.columns for part in parts)),
            dict(sorted(item for part in parts for item in part.rows.items())),
            (min(part.span[0] for part in parts), max(part.span[1] for part in parts)),
            {name: max(lengths) for name, lengths in _by_name([part.longest for part in parts]).items()},
        )

    # ---- the log and the tables together ----------------------------------------------------------------------------

    def join(self, log: Statistics, *, whole: bool = True) -> list[Match]:
        """Add the statistics of a log to those of the tables; return how many of its keys the tables have.

        Args:
            log: the statistics of its pieces.
            whole: the tables are those of all users and items, so that keys can be matched; those of a day need not be.
        """
        users, items = self.users.join(log.users), self.items.join(log.items)
        matches: list[Match] = []
        if whole:
            matches += self._match_table(self.users, "users", users, log.users.train_counts)
            matches += self._match_table(self.items, "items", items, log.items.train_counts)
            matches += self._match_snapshots(items)
        for name, events in log.events.items():
            self.events[name] += [one.mapped(users, items) for one in events]
        self.counters, self.held_out = log.counters, log.held_out
        self.samples, self.columns = log.samples, log.columns
        self.rows, self.span, self.longest = log.rows, log.span, log.longest
        self._add_entity_features()
        return matches

    def _add_entity_features(self) -> None:
        """Add the features of users and items, each value as often as its entity occurs in training."""
        seed = sum(f.kind == "numeric" for f in features_of(self.schema, "impressions"))
        for origin, entities in (("users", self.users), ("items", self.items)):
            chunk, counts = entities.chunk(), entities.train_counts[FIRST_ROW:]
            held_out = entities.held_out_counts[FIRST_ROW:]
            for feature in self.schema.features:
                if feature.origin != origin:
                    continue
                if feature.kind == "numeric":
                    numbers = values.as_number(chunk, feature.column, feature.missing)
                    self.entity_numbers[feature.name] = draw_sample(numbers, counts, seed=seed)
                    seed += 1
                elif feature.kind == "sequence" and feature.history is None:
                    lists = self._lists(feature, chunk)
                    parts = (np.repeat(each, lists.list.len().to_numpy()) for each in (counts, held_out))
                    self._count_parts(feature, chunk, flat_texts(lists), *parts)
                elif feature.kind in ("categorical", "sequence") and not self._counted_as_item(feature):
                    self._count_parts(feature, chunk, texts_of(feature, chunk, self.schema.keys), counts, held_out)

    def _counted_as_item(self, feature: Feature) -> bool:
        """Return whether a feature reads a history of items whose own feature already counts the column."""
        return feature.history is not None and any(
            f.history is None
            and f.origin == "items"
            and f.column == feature.column
            and f.table_name == feature.table_name
            for f in self.schema.features
        )

    def numbers(self, feature: Feature) -> NDArray[np.float64]:
        """Return the sample of a numeric feature."""
        return self.sample(feature).values if feature.origin == "impressions" else self.entity_numbers[feature.name]

    def _match_table(
        self, entities: EntityLog, table: str, rows: NDArray[np.int32], counts: NDArray[np.int64]
    ) -> Iterator[Match]:
        """Count the keys of the log, by their rows here, that a table has."""
        if entities.table is not None and entities.key is not None:
            keys = entities.index.keys
            yield match(table, "the log", keys, rows[FIRST_ROW:], entities.of_table, counts[FIRST_ROW:])

    def _match_snapshots(self, rows: NDArray[np.int32]) -> Iterator[Match]:
        """Count the items of the snapshots that the items table or the log has."""
        known = np.union1d(self.items.of_table, rows[FIRST_ROW:])
        for history in self.schema.histories:
            if history.snapshot is not None:
                items, counts = np.unique(self.events[history.name][0].items, return_counts=True)
                has_key = items >= FIRST_ROW
                by = f"snapshot {history.snapshot!r}"
                yield match("items", by, self.items.index.keys, items[has_key], known, counts[has_key])


def _by_name(parts: Sequence[dict[str, T]]) -> dict[str, list[T]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part[name] for part in parts if name in part] for name in names}
