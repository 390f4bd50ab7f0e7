"""Where every feature of a schema stands in a batch."""

from __future__ import annotations

from collections.abc import Mapping

from unimixer.data.schema import Feature, Origin, Schema
from unimixer.features.request import RequestLayout
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField

ORIGINS: tuple[Origin, ...] = ("users", "items", "impressions")


def is_id(feature: Feature) -> bool:
    """Whether a feature fills a column of ``Batch.ids``."""
    return feature.kind == "categorical" or feature.transform == "bucketise"


def is_dense(feature: Feature) -> bool:
    """Whether a feature fills columns of ``Batch.dense``."""
    return feature.kind in ("numeric", "embedding") and not is_id(feature)


def features_of(schema: Schema, origin: Origin) -> list[Feature]:
    """Features that stand in one raw table."""
    return [f for f in schema.features if f.history is None and f.origin == origin]


def history_features(schema: Schema) -> list[Feature]:
    """Features that read a history, in the order of the columns of ``EntityTable.history_ids``."""
    return [f for f in schema.features if f.history is not None]


def feature_spec(schema: Schema, tables: Mapping[str, int]) -> FeatureSpec:
    """The shapes of the batches: id and dense columns stand users first, then items, then impressions.

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
    )


def request_layout(schema: Schema) -> RequestLayout:
    """What of a batch belongs to the user: the columns of the users table, their lists, and all histories.

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
