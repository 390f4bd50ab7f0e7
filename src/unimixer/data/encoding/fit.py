"""Fit the transform: vocabularies and numeric statistics from the training part only, in one pass over the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, EntityTable, Match, empty_entities
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.encoding.layout import features_of, is_id
from unimixer.data.encoding.numeric import NumericFit
from unimixer.data.encoding.pending import Pending, counted
from unimixer.data.encoding.splits import Sample, Splitter, show_time
from unimixer.data.encoding.statistics import Statistics
from unimixer.data.encoding.transform import Transform
from unimixer.data.encoding.vocabulary import Vocabulary
from unimixer.data.raw.passes import LogReader, Steps
from unimixer.data.raw.tables import RawTables
from unimixer.data.raw.times import PLAUSIBLE, as_time
from unimixer.data.schema import OOV_ID, SPLITS, Feature, Origin, Schema
from unimixer.data.split_settings import QuantileSplit
from unimixer.progress import note

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Fitted:
    """A fitted transform, the borders of the splits, and how many rows of every split each piece of the log holds."""

    transform: Transform
    splitter: Splitter
    rows: dict[int, NDArray[np.int64]]
    matches: list[Match]
    pending: Pending
    """Counts of the values that have no row, for days that are appended later."""


def fit(schema: Schema, reader: LogReader) -> Fitted:
    """Learn the transform and the borders between the parts from a resolved schema."""
    times = None
    if isinstance(schema.split, QuantileSplit):
        times = Sample.merge(reader.run(ReadTimes(schema))).values
    splitter = Splitter.fit(schema, times)
    statistics = Statistics.of_tables(schema, reader.tables)
    log = Statistics.merge(reader.run(ReadStatistics(schema, splitter)))
    splitter.check(sum(log.rows.values(), np.zeros(len(SPLITS), dtype=np.int64)).tolist(), log.span, schema)
    matches = statistics.join(log)
    transform = fit_transform(statistics)
    _say_what_is_odd(statistics)
    return Fitted(transform, splitter, statistics.rows, matches, counted(transform.vocabularies, statistics))


def _say_what_is_odd(statistics: Statistics) -> None:
    """Note times that hardly are those of impressions, and separators that cut nothing."""
    schema = statistics.schema
    first, last = (int(time) for time in statistics.span)
    now = int(time.time() * 1000)
    if schema.keys.time is not None and last >= PLAUSIBLE[0]:  # a made-up clock ends before
        if first < PLAUSIBLE[0]:
            note(
                f"the first time of the log is {show_time(first, schema)}, and the last {show_time(last, schema)}: "
                "where a time such as 0 means a missing one, leave such rows out"
            )
        if last > now + DAY_MS:
            note(f"the last time of the log is {show_time(last, schema)}, in the future: is it right?")
    for feature in schema.features:
        if feature.max_length > 1 and statistics.longest.get(feature.name) == 1:
            note(
                f"feature {feature.name!r}: separator {feature.separator!r} stands in no value of column "
                f"{feature.column!r}, so that every text is one value"
            )


# ---- passes over the log --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadTimes:
    """Reads a sample of the event times, which a split by quantiles needs first."""

    schema: Schema
    title: str = "reading times"

    def run(self, tables: RawTables, shard: range) -> Steps[Sample]:
        """Return the sample of a shard of the log."""
        sample = Sample()
        for placed in tables.pieces(shard):
            if placed.chunk is not None:
                times = as_time(placed.chunk, self.schema.keys, placed.first_row)
                sample.add(times.astype(np.float64), placed.first_row + np.arange(len(times)))
            yield placed.step
        return sample


@dataclass(frozen=True)
class ReadStatistics:
    """Reads the statistics from which the transform is fitted."""

    schema: Schema
    splitter: Splitter
    title: str = "fitting vocabularies"

    def run(self, tables: RawTables, shard: range) -> Steps[Statistics]:
        """Return the statistics of a shard of the log."""
        statistics = Statistics.empty(self.schema)
        for placed in tables.pieces(shard):
            if placed.chunk is not None:
                statistics.add(placed, self.splitter)
            yield placed.step
        return statistics


# ---- statistics to a transform --------------------------------------------------------------------------------------


def fit_transform(statistics: Statistics) -> Transform:
    """Fit numeric features, then vocabularies, then encode the entity tables and index the histories."""
    schema = statistics.schema
    origins: tuple[Origin, ...] = ("impressions", "users", "items")
    numeric = [f for origin in origins for f in features_of(schema, origin) if f.kind == "numeric"]
    numerics = {feature.name: NumericFit.fit(feature, statistics.numbers(feature)) for feature in numeric}
    vocabularies = _fit_vocabularies(statistics, numerics)
    table_columns = {f.column for origin in origins[1:] for f in features_of(schema, origin)}
    transform = Transform(
        schema,
        vocabularies,
        numerics,
        empty_entities(),
        empty_entities(),
        shadowed_columns=frozenset((table_columns & statistics.columns) - {schema.keys.user, schema.keys.item}),
    )
    return replace(
        transform,
        users=_encode_entities(transform, "users", statistics.users),
        items=_encode_entities(transform, "items", statistics.items),
        histories=_index_histories(statistics),
    )


def vocabulary_features(schema: Schema) -> dict[str, Feature]:
    """Return the feature whose policy every embedding table follows."""
    policies: dict[str, Feature] = {}
    for feature in schema.features:
        if is_id(feature) or feature.kind == "sequence":
            chosen = policies.setdefault(feature.table_name, feature)
            if _precedence(feature) > _precedence(chosen):
                policies[feature.table_name] = feature
    return policies


def _fit_vocabularies(statistics: Statistics, numerics: dict[str, NumericFit]) -> dict[str, Vocabulary]:
    vocabularies = {}
    for name, feature in vocabulary_features(statistics.schema).items():
        if feature.transform == "bucketise":
            buckets = [str(i) for i in range(len(numerics[feature.name].edges) + 1)]
            vocabularies[name] = Vocabulary(pl.Series("text", buckets, dtype=pl.String))
        else:
            vocabularies[name] = Vocabulary.fit(statistics.counters[name], feature.vocabulary)
    return vocabularies


def _precedence(feature: Feature) -> int:
    """Rank the features that share a table: the highest one gives the policy of its vocabulary."""
    return 2 * (feature.name == feature.table_name) + ("vocabulary" in feature.model_fields_set)


def _index_histories(statistics: Statistics) -> dict[str, HistoryIndex]:
    histories = {}
    for history in statistics.schema.histories:
        events = statistics.events.pop(history.name)
        users, items, times = (np.concatenate([getattr(e, f) for e in events]) for f in ("users", "items", "times"))
        histories[history.name] = HistoryIndex.build(
            users, items, times, num_users=len(statistics.users.index), max_length=history.max_length
        )
    return histories


def _encode_entities(transform: Transform, origin: Origin, entities: EntityLog) -> EntityTable:
    """Encode all entities and put the rows of the missing and of the unknown entity in front."""
    chunk = entities.chunk()
    ids, dense, lists = transform.encode_table(origin, chunk) if entities.key else _no_entities()
    features = [f for f in transform.features(origin) if is_id(f)]
    shown = transform.history_features() if origin == "items" and entities.key else []
    stacked = transform.history_columns(chunk) if shown else np.empty((len(ids), 0), dtype=np.int32)
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
    """Return row 0, with all missing, and row 1, with an out-of-vocabulary key and all else missing."""
    rows = np.zeros((FIRST_ROW, len(features)), dtype=np.int32)
    rows[1] = [OOV_ID if f.column == key else 0 for f in features]
    return rows


def _no_entities() -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Ragged]]:
    return np.empty((0, 0), dtype=np.int32), np.empty((0, 0), dtype=np.float32), {}
