"""What a pass over the log says: counts, samples, keys and events of any pieces, which merge in any grouping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.entities import FIRST_ROW, EntityLog
from unimixer.data.encoding.history import happened
from unimixer.data.encoding.splits import Sample, Splitter
from unimixer.data.encoding.transform import Transform, empty_entities
from unimixer.data.encoding.vocabulary import Counter
from unimixer.data.raw import values
from unimixer.data.raw.lists import as_lists
from unimixer.data.raw.passes import Steps
from unimixer.data.raw.tables import Chunk, Placed, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import SPLITS, Feature, Schema

T = TypeVar("T")


@dataclass(frozen=True)
class Events:
    """Who met which item when, in the order of one piece: rows of :attr:`Gathered.users` and :attr:`Gathered.items`."""

    piece: int
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64]

    def mapped(self, users: NDArray[np.int32], items: NDArray[np.int32]) -> Events:
        """The same events by other row numbers."""
        return Events(self.piece, users[self.users], items[self.items], self.times)


@dataclass
class Gathered:
    """What some pieces of the log say, training part only unless told otherwise.

    The whole that :meth:`merge` makes of parts does not depend on how the pieces were shared out: counts add up, a
    sample is chosen by the numbers of the rows, keys and events know their piece.
    """

    users: EntityLog
    items: EntityLog
    events: dict[str, list[Events]]
    """Of every history, from all parts of the data."""
    counters: dict[str, Counter] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    rows: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """Rows of every split, a piece."""
    span: tuple[float, float] = (np.inf, -np.inf)

    @classmethod
    def nothing(cls, schema: Schema) -> Gathered:
        """Before the first piece."""
        keys = schema.keys
        return cls(EntityLog(None, keys.user), EntityLog(None, keys.item), {h.name: [] for h in schema.histories})

    def count(self, feature: Feature, chunk: Chunk, texts: pl.Series, weights: NDArray[np.int64] | None = None) -> None:
        """Count the texts of a feature, which came from its column of a chunk."""
        counter = self.counters.setdefault(feature.table_name, Counter())
        counter.typed = counter.typed or values.has_own_form(chunk, feature.column)
        counter.add(texts, weights)

    def sample(self, feature: Feature, schema: Schema) -> Sample:
        """Numbers of a feature."""
        return self.samples.setdefault(feature.name, Sample(seed=schema.features.index(feature)))

    @classmethod
    def merge(cls, parts: Sequence[Gathered]) -> Gathered:
        """What all parts say together."""
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
            users,
            items,
            events,
            {name: Counter.merge(found) for name, found in _by_name([part.counters for part in parts]).items()},
            {name: Sample.merge(found) for name, found in _by_name([part.samples for part in parts]).items()},
            set().union(*(part.columns for part in parts)),
            dict(sorted(item for part in parts for item in part.rows.items())),
            (min(part.span[0] for part in parts), max(part.span[1] for part in parts)),
        )


def _by_name(parts: Sequence[dict[str, T]]) -> dict[str, list[T]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part[name] for part in parts if name in part] for name in names}


class Gatherer:
    """Reads chunks of the log into a :class:`Gathered`."""

    def __init__(self, schema: Schema, splitter: Splitter) -> None:
        self.schema, self.splitter, self.gathered = schema, splitter, Gathered.nothing(schema)
        # gives the texts of features before anything is fitted
        self._unfitted = Transform(schema, {}, {}, empty_entities(), empty_entities())

    def add(self, placed: Placed) -> None:
        """Read one chunk."""
        assert placed.chunk is not None
        chunk, gathered = placed.chunk, self.gathered
        times = as_time(chunk, self.schema.keys, placed.first_row)
        split = self.splitter(times, placed.first_row)
        gathered.columns |= set(chunk.frame.columns)
        before = gathered.rows.get(placed.piece, np.zeros(len(SPLITS), dtype=np.int64))
        gathered.rows[placed.piece] = before + np.bincount(split, minlength=len(SPLITS))
        if len(times):
            gathered.span = min(gathered.span[0], int(times.min())), max(gathered.span[1], int(times.max()))
        rows = dict(self._entities(placed.piece, chunk, split == 0))
        self._features(placed, chunk, split == 0)
        for history in self.schema.histories:
            # impressions without a user or an item are nobody's past
            past = (rows["users"] >= FIRST_ROW) & (rows["items"] >= FIRST_ROW) & happened(history, self.schema, chunk)
            gathered.events[history.name].append(
                Events(placed.piece, rows["users"][past], rows["items"][past], times[past])
            )

    def _entities(self, piece: int, chunk: Chunk, train: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.int32]]]:
        for name, entities in (("users", self.gathered.users), ("items", self.gathered.items)):
            found = entities.rows(chunk, piece)
            if found is not None:
                entities.train_counts += np.bincount(found[train], minlength=len(entities.index))
                yield name, found

    def _features(self, placed: Placed, chunk: Chunk, train: NDArray[np.bool_]) -> None:
        kept, rows = pl.Series(train), placed.first_row + np.flatnonzero(train)
        for feature in self._unfitted.features("impressions"):
            if feature.kind == "sequence":
                lists = as_lists(chunk, feature).filter(kept)
                self.gathered.count(feature, chunk, lists.filter(lists.list.len() > 0).explode().cast(pl.String))
            elif feature.kind == "numeric":
                numbers = values.as_number(chunk, feature.column, feature.missing)[train]
                self.gathered.sample(feature, self.schema).add(numbers, rows)
            elif feature.kind == "categorical":
                self.gathered.count(feature, chunk, self._unfitted.texts(feature, chunk).filter(kept))


@dataclass(frozen=True)
class Gather:
    """The pass as a task for any number of workers."""

    schema: Schema
    splitter: Splitter
    title: str = "fitting vocabularies"

    def run(self, tables: RawTables, share: range) -> Steps[Gathered]:
        """What a share of the log says."""
        gatherer = Gatherer(self.schema, self.splitter)
        for placed in tables.pieces(share):
            if placed.chunk is not None:
                gatherer.add(placed)
            yield placed.rows if placed.chunk is not None else 0, placed.first_row + placed.rows
        return gatherer.gathered


@dataclass(frozen=True)
class SampleTimes:
    """A sample of the event times, which a split by quantiles needs before anything else."""

    schema: Schema
    title: str = "reading times"

    def run(self, tables: RawTables, share: range) -> Steps[Sample]:
        """The sample of a share of the log."""
        sample = Sample()
        for placed in tables.pieces(share):
            if placed.chunk is not None:
                times = as_time(placed.chunk, self.schema.keys, placed.first_row)
                sample.add(times.astype(np.float64), placed.first_row + np.arange(len(times)))
            yield placed.rows if placed.chunk is not None else 0, placed.first_row + placed.rows
        return sample
