"""Resolve the raw tables of features and lay out their positions in a batch."""

from __future__ import annotations

from collections.abc import Mapping

from unimixer.data.encoding.history import event_column, event_label
from unimixer.data.raw import values
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import ORIGIN_OF_DOMAIN, Feature, Origin, Schema
from unimixer.data.split_settings import ColumnSplit
from unimixer.errors import UnimixerError, nearest
from unimixer.features.request import RequestLayout
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField

ORIGINS: tuple[Origin, ...] = ("users", "items", "impressions")


def is_id(feature: Feature) -> bool:
    """Return whether a feature fills a column of ``Batch.sparse_ids``."""
    return feature.kind == "categorical" or feature.transform == "bucketise"


def is_dense(feature: Feature) -> bool:
    """Return whether a feature fills columns of ``Batch.dense_features``."""
    return feature.kind in ("numeric", "embedding") and not is_id(feature)


def features_of(schema: Schema, origin: Origin) -> list[Feature]:
    """Return the features of one raw table."""
    return [f for f in schema.features if f.history is None and f.origin == origin]


def history_features(schema: Schema) -> list[Feature]:
    """Return the features that read a history, in the order of the columns of ``EntityTable.history_ids``."""
    return [f for f in schema.features if f.history is not None]


def feature_spec(schema: Schema, tables: Mapping[str, int]) -> FeatureSpec:
    """Return the shapes of the batches; id and dense columns are ordered users, items, impressions.

    Args:
        schema: resolved, every feature that does not read a history names its origin.
        tables: rows of every embedding table.
    """
    plain = [f for origin in ORIGINS for f in features_of(schema, origin)]
    targets = {f.column: f.name for f in plain if is_id(f) and f.domain == "item"}
    lengths = {history.name: history.max_length for history in schema.histories}
    return FeatureSpec(
        ids=tuple(IdField(f.name, f.domain, f.table_name) for f in plain if is_id(f)),
        dense=tuple(DenseField(f.name, f.domain, f.width or 1) for f in plain if is_dense(f)),
        sequences=tuple(
            SequenceField(f.name, f.domain, f.table_name, f.name, f.max_length)
            if f.history is None
            else SequenceField(f.name, f.domain, f.table_name, f.history, lengths[f.history], targets.get(f.column))
            for f in schema.features
            if f.kind == "sequence"
        ),
        tables=dict(tables),
        labels=schema.label_names,
        soft_labels=schema.soft_labels,
    )


def request_layout(schema: Schema) -> RequestLayout:
    """Return the part of a batch that belongs to the user: columns of the users table, their lists, and all histories.

    Args:
        schema: resolved.
    """
    users = features_of(schema, "users")
    histories = [
        history.name for history in schema.histories if any(f.history == history.name for f in schema.features)
    ]
    return RequestLayout(
        user_ids=sum(is_id(f) for f in users),
        user_dense=sum(f.width or 1 for f in users if is_dense(f)),
        user_groups=(*histories, *(f.name for f in users if f.kind == "sequence")),
    )


# ---- origins --------------------------------------------------------------------------------------------------------


def resolve(tables: RawTables) -> Schema:
    """Set the origin of every feature: the entity table of its domain if it has the column, else the log."""
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
    needed += [schema.split.column] if isinstance(schema.split, ColumnSplit) else []
    needed += [label.column for label in schema.labels] + [label.probability for label in schema.labels]
    needed += [event_column(history, schema) for history in schema.histories]
    needed += [event_column(count, schema) for count in schema.counts]
    for name in filter(None, needed):
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
