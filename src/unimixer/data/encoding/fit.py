"""One pass over the log that learns the transform: vocabularies and numeric statistics from the training part only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, EntityTable
from unimixer.data.encoding.gather import Events, Gather, Gathered, SampleTimes
from unimixer.data.encoding.history import BEFORE_THE_LOG, HistoryIndex, event_column, event_label, snapshot_lists
from unimixer.data.encoding.layout import features_of, is_id
from unimixer.data.encoding.matching import Match, match
from unimixer.data.encoding.numeric import NumericFit
from unimixer.data.encoding.splits import Sample, Splitter, drawn
from unimixer.data.encoding.transform import Transform, empty_entities
from unimixer.data.encoding.vocabulary import Vocabulary
from unimixer.data.raw import values
from unimixer.data.raw.lists import as_lists
from unimixer.data.raw.passes import LogReader
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import (
    OOV_ID,
    ORIGIN_OF_DOMAIN,
    SPLITS,
    Feature,
    History,
    Origin,
    QuantileSplit,
    Schema,
)
from unimixer.errors import UnimixerError, nearest


def resolve(tables: RawTables) -> Schema:
    """Name the origin of every feature: the entity table of its domain where it has the column, else the log."""
    schema = tables.schema
    first = next(tables.impressions(), None)
    if first is None:
        raise UnimixerError(f"{schema.name}: the log has no rows")
    keys = schema.keys
    columns: dict[Origin, set[str]] = {
        "impressions": set(first.columns),
        "users": set() if keys.user is None else {keys.user, *(tables.users.columns if tables.users else ())},
        "items": set() if keys.item is None else {keys.item, *(tables.items.columns if tables.items else ())},
    }
    needed = [keys.user, keys.item, keys.time, schema.weight]
    needed += [label.source or label.name for label in schema.labels] + [label.probability for label in schema.labels]
    for name in filter(None, [*needed, *(event_column(h, schema) for h in schema.histories)]):
        values.column(first, name)
    for history in schema.histories:
        label = event_label(history, schema)
        if label is not None and label.source not in (None, label.name) and label.name in columns["impressions"]:
            raise UnimixerError(
                f"history {history.name!r}: event {history.event!r} is a label read from {label.source!r} and a column "
                "of the log too; rename the label"
            )
        if history.snapshot is not None and (tables.users is None or history.snapshot not in columns["users"]):
            near = nearest(history.snapshot, columns["users"]) if tables.users else ""
            raise UnimixerError(f"history {history.name!r}: the users table has no column {history.snapshot!r}{near}")
    features = tuple(_with_origin(f, columns, keys.time) for f in schema.features)
    return schema.model_copy(update={"features": features})


def _with_origin(feature: Feature, columns: dict[Origin, set[str]], time: str | None) -> Feature:
    if feature.transform in ("hour", "weekday") and feature.source is None:
        if time is None:
            raise UnimixerError(
                f"feature {feature.name!r}: transform {feature.transform!r} needs keys.time or a source"
            )
        feature = feature.model_copy(update={"source": time})
    if feature.transform in ("hour", "weekday"):
        feature = feature.model_copy(update={"origin": "impressions"})  # every event has a time; an entity may not
    wanted: Origin = "items" if feature.history is not None else feature.origin or ORIGIN_OF_DOMAIN[feature.domain]
    fixed = feature.history is not None or feature.origin is not None
    choices: list[Origin] = [wanted] if fixed else list(dict.fromkeys((wanted, "impressions")))
    for origin in choices:
        if feature.column in columns[origin]:
            return feature.model_copy(update={"origin": origin})
    known = sorted(set().union(*(columns[o] for o in choices)))
    tables = " or ".join(choices)
    raise UnimixerError(
        f"feature {feature.name!r}: no column {feature.column!r} in {tables}{nearest(feature.column, known)}"
    )


class Fit:
    """Joins what the log says with the tables of users and items, then builds the transform."""

    def __init__(self, tables: RawTables, schema: Schema) -> None:
        self.schema = schema
        self.users = EntityLog(tables.users, schema.keys.user)
        self.items = EntityLog(tables.items, schema.keys.item)
        self.unfitted = Transform(schema, {}, {}, empty_entities(), empty_entities())
        self.gathered = Gathered.nothing(schema)
        self.matches: list[Match] = []
        # rows of the tables come first, then items of the snapshots, then what the log brings, as it appears
        self.events = {h.name: [self._snapshot(h)] if h.snapshot else [] for h in schema.histories}

    def join(self, gathered: Gathered) -> None:
        """Take in what the whole log says."""
        self.gathered = gathered
        users, items = self.users.take_in(gathered.users), self.items.take_in(gathered.items)
        self.matches = [*self._matches("users", users), *self._matches("items", items), *self._snapshots(items)]
        for name in self.events:
            self.events[name] += [one.mapped(users, items) for one in gathered.events.pop(name)]

    def _matches(self, table: Origin, named: NDArray[np.int32]) -> Iterator[Match]:
        """How many of the keys that the log names, by the rows that they have here, a table has."""
        entities = self._of(table)
        if entities.table is not None and entities.key is not None:
            counts = (self.gathered.users if table == "users" else self.gathered.items).train_counts
            keys = entities.index.keys
            yield match(table, "the log", keys, named[FIRST_ROW:], entities.of_table, counts[FIRST_ROW:])

    def _snapshots(self, named: NDArray[np.int32]) -> Iterator[Match]:
        """How many of the items of the snapshots the items table or the log has."""
        known = np.union1d(self.items.of_table, named[FIRST_ROW:])
        for history in self.schema.histories:
            if history.snapshot is not None:
                items, counts = np.unique(self.events[history.name][0].items, return_counts=True)
                found = items >= FIRST_ROW
                by = f"snapshot {history.snapshot!r}"
                yield match("items", by, self.items.index.keys, items[found], known, counts[found])

    def _snapshot(self, history: History) -> Events:
        """Events from before the log; they also count for the vocabularies of the items, being older than training."""
        assert self.users.table is not None
        lists = snapshot_lists(history, self.users.table)
        lengths = lists.list.len().to_numpy()
        users = np.repeat(np.arange(FIRST_ROW, FIRST_ROW + len(lengths), dtype=np.int32), lengths)
        items = self.items.rows_of(lists.filter(lists.list.len() > 0).explode().cast(pl.String))
        self.items.train_counts += np.bincount(items, minlength=len(self.items.index))
        return Events(-1, users, items, np.full(len(users), BEFORE_THE_LOG))

    def finish(self) -> Transform:
        """Fit numeric statistics, then vocabularies, then encode the entity tables and histories."""
        tables: dict[Origin, EntityLog] = {"users": self.users, "items": self.items}
        chunks = {origin: entities.chunk() for origin, entities in tables.items()}
        numerics = self._numerics(tables, chunks)
        for origin, entities in tables.items():
            for feature in [
                f for f in self.schema.features if f.origin == origin and f.kind in ("categorical", "sequence")
            ]:
                self._count_entities(feature, chunks[origin], entities.train_counts[FIRST_ROW:])
        return self._encode(chunks, numerics, self._vocabularies(numerics))

    def _numerics(self, tables: dict[Origin, EntityLog], chunks: dict[Origin, Chunk]) -> dict[str, NumericFit]:
        """Statistics of every numeric feature; those of users and items count as often as they occur in training."""
        origins: tuple[Origin, ...] = ("impressions", *tables)
        features = [f for origin in origins for f in self.unfitted.features(origin) if f.kind == "numeric"]
        found = {}
        for seed, feature in enumerate(features):
            assert feature.origin is not None
            if feature.origin == "impressions":
                sample = self.gathered.sample(feature, self.schema).values
            else:
                numbers = values.as_number(chunks[feature.origin], feature.column, feature.missing)
                counts = tables[feature.origin].train_counts[FIRST_ROW:]
                sample = drawn(_resample(numbers, counts), seed=seed)
            found[feature.name] = NumericFit.fit(feature, sample)
        return found

    def _count_entities(self, feature: Feature, chunk: Chunk, counts: NDArray[np.int64]) -> None:
        if feature.kind == "sequence" and feature.history is None:
            lists = as_lists(chunk, feature)
            texts = lists.filter(lists.list.len() > 0).explode().cast(pl.String)
            self.gathered.count(feature, chunk, texts, np.repeat(counts, lists.list.len().to_numpy()))
        elif feature.history is None or not self._counted_as_item(feature):
            self.gathered.count(feature, chunk, self.unfitted.texts(feature, chunk), counts)

    def _counted_as_item(self, feature: Feature) -> bool:
        """Whether an item's own feature counts the same column for the same table already."""
        return any(
            f.history is None
            and f.origin == "items"
            and f.column == feature.column
            and f.table_name == feature.table_name
            for f in self.schema.features
        )

    def _vocabularies(self, numerics: dict[str, NumericFit]) -> dict[str, Vocabulary]:
        policies: dict[str, Feature] = {}
        for feature in self.schema.features:
            if is_id(feature) or feature.kind == "sequence":
                chosen = policies.setdefault(feature.table_name, feature)
                if _decides(feature) > _decides(chosen):
                    policies[feature.table_name] = feature
        fitted = {}
        for name, feature in policies.items():
            if feature.transform == "bucketise":
                buckets = [str(i) for i in range(len(numerics[feature.name].edges) + 1)]
                fitted[name] = Vocabulary(pl.Series("text", buckets, dtype=pl.String))
            else:
                fitted[name] = Vocabulary.fit(self.gathered.counters[name], feature.vocabulary)
        return fitted

    def _encode(
        self, chunks: dict[Origin, Chunk], numerics: dict[str, NumericFit], vocabularies: dict[str, Vocabulary]
    ) -> Transform:
        fitted = Transform(self.schema, vocabularies, numerics, empty_entities(), empty_entities())
        encoded = {o: _encode_entities(fitted, o, self._of(o), chunks[o]) for o in chunks}
        histories = {}
        for history in self.schema.histories:
            events = self.events.pop(history.name)
            users, items, times = (np.concatenate([getattr(e, f) for e in events]) for f in ("users", "items", "times"))
            histories[history.name] = HistoryIndex.build(
                users, items, times, num_users=len(self.users.index), max_length=history.max_length
            )
        keys = {self.schema.keys.user, self.schema.keys.item}
        read = {f.column for o in chunks for f in features_of(self.schema, o)}
        doubled = frozenset((read & self.gathered.columns) - keys)
        return Transform(self.schema, vocabularies, numerics, encoded["users"], encoded["items"], histories, doubled)

    def _of(self, origin: Origin) -> EntityLog:
        return self.users if origin == "users" else self.items


@dataclass(frozen=True)
class Fitted:
    """What was learned, and how many rows of every split each piece of the log holds."""

    transform: Transform
    splitter: Splitter
    rows: dict[int, NDArray[np.int64]]
    matches: list[Match]


def fit(schema: Schema, reader: LogReader) -> Fitted:
    """Learn the transform and the borders between the parts from a resolved schema."""
    times = None
    if isinstance(schema.split, QuantileSplit):
        times = Sample.merge(reader.run(SampleTimes(schema))).values
    splitter = Splitter.fit(schema, times)
    fitting = Fit(reader.tables, schema)
    gathered = Gathered.merge(reader.run(Gather(schema, splitter)))
    splitter.check(sum(gathered.rows.values(), np.zeros(len(SPLITS), dtype=np.int64)).tolist(), gathered.span, schema)
    fitting.join(gathered)
    return Fitted(fitting.finish(), splitter, gathered.rows, fitting.matches)


def _decides(feature: Feature) -> int:
    """How much a feature has to say on the vocabulary of a table that several share."""
    return 2 * (feature.name == feature.table_name) + ("vocabulary" in feature.model_fields_set)


def _resample(numbers: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each entity's number as often as the entity occurs, scaled down where that would be too many."""
    scale = max(1, int(counts.sum()) // 2_000_000)
    return np.repeat(numbers, (counts + scale - 1) // scale)


def _encode_entities(fitted: Transform, origin: Origin, entities: EntityLog, chunk: Chunk) -> EntityTable:
    """Encode all entities and put the rows of the missing and of the unknown entity in front."""
    ids, dense, lists = fitted.encode_table(origin, chunk) if entities.key else _nothing()
    features = [f for f in fitted.features(origin) if is_id(f)]
    shown = fitted.history_features() if origin == "items" and entities.key else []
    stacked = fitted.history_columns(chunk) if shown else np.empty((len(ids), 0), dtype=np.int32)
    return EntityTable(
        index=entities.index,
        ids=np.concatenate([_special_rows(features, entities.key), ids]),
        dense=np.concatenate([np.full((FIRST_ROW, dense.shape[1]), np.nan, dtype=np.float32), dense]),
        lists={
            name: Ragged(r.values, np.concatenate([np.zeros(FIRST_ROW, dtype=np.int64), r.offsets]))
            for name, r in lists.items()
        },
        history_ids=np.concatenate([_special_rows(shown, entities.key), stacked]),
    )


def _special_rows(features: list[Feature], key: str | None) -> NDArray[np.int32]:
    """Row 0: everything missing. Row 1: the key is out-of-vocabulary, everything else missing."""
    rows = np.zeros((FIRST_ROW, len(features)), dtype=np.int32)
    rows[1] = [OOV_ID if f.column == key else 0 for f in features]
    return rows


def _nothing() -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Ragged]]:
    return np.empty((0, 0), dtype=np.int32), np.empty((0, 0), dtype=np.float32), {}
