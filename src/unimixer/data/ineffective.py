"""Name the settings of a schema that have no effect."""

from __future__ import annotations

from unimixer.data.encoding.fit import vocabulary_features
from unimixer.data.schema import Feature, History, Keys, Schema


def without_effect(schema: Schema) -> list[str]:
    """Return a sentence for every setting that is given and does nothing."""
    remarks = []
    if schema.keys.time is None:
        remarks += [
            f"keys.{key}={getattr(schema.keys, key)} has no effect without keys.time"
            for key in ("time_format", "timezone")
            if getattr(schema.keys, key) != Keys.model_fields[key].default
        ]
    remarks += [
        f"history {history.name!r}: separator={history.separator!r} has no effect without a snapshot"
        for history in schema.histories
        if history.separator != History.model_fields["separator"].default and history.snapshot is None
    ]
    policies = vocabulary_features(schema)
    for feature in schema.features:
        for key, reason in _reasons(feature, policies).items():
            if reason and getattr(feature, key) != Feature.model_fields[key].default:
                value = "" if key == "vocabulary" else f"={getattr(feature, key)!r}"
                remarks.append(f"feature {feature.name!r}: {key}{value} has no effect: {reason}")
    return remarks


def _reasons(feature: Feature, policies: dict[str, Feature]) -> dict[str, str]:
    """Return why a setting of a feature has no effect, empty where it has one."""
    has_ids = feature.kind in ("categorical", "sequence") or feature.transform == "bucketise"
    no_list, no_table = "", "" if has_ids else "it has no embedding table"
    if feature.history is not None:
        no_list = f"set it at the history {feature.history!r}"
    elif feature.kind != "sequence":
        no_list = "it goes with a list column, kind: sequence"
    chosen = policies.get(feature.table_name, feature)
    policy = no_table
    if feature.transform == "bucketise":
        policy = "the buckets are its vocabulary"
    elif has_ids and chosen.vocabulary != feature.vocabulary:
        policy = f"feature {chosen.name!r} has the vocabulary of their table {feature.table_name!r}"
    return {
        "separator": no_list,
        "max_length": no_list,
        "num_buckets": "" if feature.transform == "bucketise" else "it goes with transform: bucketise",
        "table": no_table,
        "vocabulary": policy,
        "missing": "a vector is missing where the value is empty" if feature.kind == "embedding" else "",
    }
