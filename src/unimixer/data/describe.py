"""Describe a dataset in numbers: fields, cardinalities, missing and unknown rates, label rates."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from unimixer.data.dataset import Dataset, SplitSummary
from unimixer.data.schema import SPLITS
from unimixer.data.stream import is_stream
from unimixer.features.spec import FeatureSpec
from unimixer.metrics import auc


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return plain values for a table or for JSON."""
    schema, spec = dataset.transform.schema, dataset.transform.spec
    summaries = {split: dataset.summary(split) for split in SPLITS}
    best = {split: best_reachable(dataset, split) for split in SPLITS}
    return {
        "name": dataset.manifest["name"],
        "hash": dataset.hash,
        "origin": dataset.manifest["origin"],
        "stream": is_stream(dataset),
        "labels": list(schema.label_names),
        "splits": [
            {
                "split": split,
                "rows": s.rows,
                "from": _time(s.first_time, dataset),
                "to": _time(s.last_time, dataset),
                "label_rates": [p / s.rows for p in s.positives],
            }
            for split, s in summaries.items()
        ],
        "best_auc": best if best["test"] else None,
        "users": len(dataset.transform.users) - 2,
        "items": len(dataset.transform.items) - 2,
        "matches": [asdict(match) for match in dataset.matches],
        "fields": _id_fields(dataset, summaries)
        + _dense_fields(spec, summaries)
        + _sequence_fields(dataset, summaries),
    }


def best_reachable(dataset: Dataset, split: str) -> dict[str, float] | None:
    """Compute the AUC of the true probabilities that a simulator wrote; None for real data.

    A label that has one class only in this split has no AUC and is left out.
    """
    schema = dataset.transform.schema
    truths, labels = [], []
    for part in dataset.parts(split):
        if part.labels is None or (part.truth is None and not schema.truths):
            return None
        known = [schema.label_names.index(name) for name in schema.truths.values()]
        truths.append(part.labels[:, known].copy() if part.truth is None else part.truth.copy())
        labels.append(part.labels.copy())
    truth, drawn = np.concatenate(truths), np.concatenate(labels)
    names = tuple(schema.truths) if truth.shape[1] != len(schema.labels) else schema.label_names
    columns = {name: drawn[:, schema.label_names.index(name)] for name in names}
    return {
        name: auc(truth[:, i], column)
        for i, (name, column) in enumerate(columns.items())
        if 0 < column.sum(dtype=np.float64) < len(column)
    }


def _field(name: str, kind: str, domain: str, **values: Any) -> dict[str, Any]:
    columns = ("table", "form", "num_embeddings", "missing", "unknown_validation", "unknown_test", "mean_length")
    return {"field": name, "kind": kind, "domain": domain, **dict.fromkeys(columns), **values}


def _id_fields(dataset: Dataset, summaries: dict[str, SplitSummary]) -> list[dict[str, Any]]:
    spec, vocabularies = dataset.transform.spec, dataset.transform.vocabularies
    return [
        _field(
            f.name,
            "id",
            f.domain,
            table=f.table,
            form=vocabularies[f.table].form,
            num_embeddings=spec.tables[f.table],
            missing=_share(summaries["train"].missing[i], summaries["train"]),
            unknown_validation=_share(summaries["validation"].out_of_vocabulary[i], summaries["validation"]),
            unknown_test=_share(summaries["test"].out_of_vocabulary[i], summaries["test"]),
        )
        for i, f in enumerate(spec.ids)
    ]


def _dense_fields(spec: FeatureSpec, summaries: dict[str, SplitSummary]) -> list[dict[str, Any]]:
    first = len(spec.ids)
    return [
        _field(
            f.name,
            "number" if f.width == 1 else f"vector of {f.width}",
            f.domain,
            missing=_share(summaries["train"].missing[first + i], summaries["train"]),
        )
        for i, f in enumerate(spec.dense)
    ]


def _sequence_fields(dataset: Dataset, summaries: dict[str, SplitSummary]) -> list[dict[str, Any]]:
    spec, groups = dataset.transform.spec, list(dataset.transform.spec_groups)
    train = summaries["train"]
    return [
        _field(
            f.name,
            "sequence",
            f.domain,
            table=f.table,
            form=dataset.transform.vocabularies[f.table].form,
            num_embeddings=spec.tables[f.table],
            mean_length=round(train.lengths[groups.index(f.group)] / train.rows, 2),
        )
        for f in spec.sequences
    ]


def _share(count: int, summary: SplitSummary) -> str:
    return f"{count / summary.rows:.2%}"


def _time(millis: int, dataset: Dataset) -> str:
    keys = dataset.transform.schema.keys
    if keys.time is None:
        return f"row {millis:,}"
    return f"{datetime.fromtimestamp(millis / 1000, ZoneInfo(keys.timezone)):%Y-%m-%d %H:%M:%S}"
