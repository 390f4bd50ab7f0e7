"""A dataset in numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import tables_of, toy_frames, toy_schema

from unimixer.api import prepare as prepare_source
from unimixer.data.dataset import Dataset
from unimixer.data.describe import best_reachable, describe_dataset
from unimixer.data.prepare import prepare
from unimixer.metrics import auc


def test_splits_and_fields_are_counted(toy_dataset: Dataset) -> None:
    facts = describe_dataset(toy_dataset)
    json.dumps(facts)
    assert [s["split"] for s in facts["splits"]] == ["train", "validation", "test"]
    assert sum(s["rows"] for s in facts["splits"]) == 2_000
    assert facts["splits"][0]["from"].startswith("2022-05-01 ")  # local days, as the split counts them
    assert facts["splits"][2]["to"].startswith("2022-05-10 ")
    log = toy_frames()[0]
    rate = sum(s["rows"] * s["label_rates"][0] for s in facts["splits"]) / 2_000
    assert rate == pytest.approx(log["is_click"].to_numpy().mean())
    assert (facts["users"], facts["items"], facts["best_auc"]) == (12, 30, None)
    assert {f["field"] for f in facts["fields"]} == {f.name for f in toy_dataset.transform.schema.features}


def test_a_field_has_its_kind_table_and_shares(toy_dataset: Dataset) -> None:
    fields = {f["field"]: f for f in describe_dataset(toy_dataset)["fields"]}
    assert {name: fields[name]["kind"] for name in ("tab", "age", "picture", "clicked_items", "position")} == {
        "tab": "id",
        "age": "number",
        "picture": "vector of 4",
        "clicked_items": "sequence",
        "position": "id",
    }
    assert fields["clicked_items"]["table"] == "item_id"
    assert [fields[name]["form"] for name in ("tab", "hour", "words", "age")] == ["text", "number", "text", None]
    assert fields["tab"]["num_embeddings"] == 4  # padding, unknown, home, feed
    late = toy_frames()[0].filter(pl.col("tab") == "late").height
    unknown = float(fields["tab"]["unknown_test"].rstrip("%")) + float(fields["tab"]["unknown_validation"].rstrip("%"))
    assert late > 0
    assert unknown > 50
    assert fields["tab"]["missing"].endswith("%")
    assert 0 < fields["words"]["mean_length"] <= 3


def test_the_best_reachable_auc_is_that_of_the_true_probabilities(tmp_path: Path) -> None:
    dataset = prepare_source("synthetic", tmp_path / "world", rows=3_000, users=50, items=50)
    best = best_reachable(dataset, "train")
    assert best is not None
    parts = list(dataset.parts("train"))
    truth, labels = (np.concatenate([np.asarray(getattr(p, name)) for p in parts]) for name in ("truth", "labels"))
    assert best == {"click": auc(truth[:, 0], labels[:, 0]), "like": auc(truth[:, 1], labels[:, 1])}
    assert describe_dataset(dataset)["best_auc"]["train"] == best


def test_a_soft_label_gives_the_truth_of_a_hard_one(tmp_path: Path) -> None:
    log, users, items = toy_frames()
    labels = [{"name": "is_click", "probability": "p"}, {"name": "long_view", "source": "watch_s", "threshold": 10}]
    soft = [*labels, {"name": "true_click", "source": "p", "soft": True}]
    tables = tables_of(toy_schema(labels=soft), log.with_columns(p=0.25 + 0.5 * pl.col("is_click")), users, items)
    dataset = prepare(tables, tmp_path / "store")
    best = best_reachable(dataset, "test")
    (part,) = dataset.parts("test")
    assert part.labels is not None
    truth = part.labels[:, 2]
    assert best == {"is_click": 1.0, "true_click": auc(truth, truth)}


def test_real_data_has_no_best_reachable_auc(toy_dataset: Dataset) -> None:
    assert best_reachable(toy_dataset, "test") is None


def test_a_label_of_one_class_is_left_out_of_the_best_reachable_auc(tmp_path: Path) -> None:
    log, users, items = toy_frames()
    probability = log["is_click"].cast(pl.Float64) * 0.5 + 0.25
    late = pl.col("time_ms") > log["time_ms"].quantile(0.5)
    log = log.with_columns(p=probability, watch_s=pl.when(late).then(0.0).otherwise("watch_s"))
    labels = [
        {"name": "is_click", "probability": "p"},
        {"name": "long_view", "source": "watch_s", "threshold": 10, "probability": "p"},
    ]
    dataset = prepare(tables_of(toy_schema(labels=labels), log, users, items), tmp_path / "store")
    assert best_reachable(dataset, "test") == {"is_click": 1.0}
    describe_dataset(dataset)
