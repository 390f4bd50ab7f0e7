"""Shares of unknown and of missing values, feature by feature, and what is said of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from toy import toy_frames

from unimixer.data.coverage import Coverage, expected_shares
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.raw.tables import Chunk
from unimixer.features.batch import Batch
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField
from unimixer.training.run import RunFolder

SPEC = FeatureSpec(
    ids=(IdField("user", "user", "user"), IdField("item", "item", "item")),
    dense=(DenseField("picture", "item", 2), DenseField("price", "item")),
    sequences=(
        SequenceField("seen", "behaviour", "item", "clicks", 5),
        SequenceField("tags", "item", "tag", "tags", 3),
    ),
    tables={"user": 9, "item": 9, "tag": 9},
    labels=("y",),
)
NAN = float("nan")
USER = Batch(torch.tensor([[1]]), torch.zeros(1, 0), {"clicks": torch.tensor([[1], [4]])})
CANDIDATES = Batch(
    torch.tensor([[1], [0], [5], [1]]),
    torch.tensor([[NAN, NAN, 1.0], [0.0, 0.0, NAN], [0.0, 0.0, 1.0], [0.0, 0.0, NAN]]),
    {"tags": torch.tensor([[2], [1], [3]])},
)


def test_parts_side_by_side_count_each_their_own_rows() -> None:
    coverage = Coverage(SPEC)
    for _ in range(2):
        coverage.add(USER, CANDIDATES)
    assert coverage.shares() == {
        "unknown": {"user": 1.0, "item": 0.5, "seen": 0.5, "tags": 0.333333},
        "missing": {"user": 0.0, "item": 0.25, "picture": 0.25, "price": 0.5, "seen": 0.0, "tags": 0.0},
    }
    assert (coverage.rows, coverage.values.tolist()) == (8, [2, 8, 8, 8, 4, 6])
    quick = Coverage(SPEC)
    quick.add(USER, CANDIDATES, missing=False)
    assert quick.unknown.tolist() == (coverage.unknown // 2).tolist() == [1, 2, 0, 0, 1, 1]


def test_counts_of_the_batches_of_a_split_are_those_that_the_dataset_keeps(toy_dataset: Dataset) -> None:
    counted, kept = Coverage(toy_dataset.transform.spec), Coverage.of_split(toy_dataset, "validation+test")
    for split in ("validation", "test"):
        for batch in Loader(toy_dataset, split, batch_size=100).batches():
            counted.add(batch)
    plain = len(kept.spec.ids) + len(kept.spec.dense)
    for name in ("values", "unknown", "missing"):
        assert np.array_equal(getattr(counted, name)[:plain], getattr(kept, name)[:plain])
    assert counted.unknown.sum() > 0
    assert counted.missing.sum() > 0


def test_what_training_had_is_expected_and_not_said(toy_dataset: Dataset) -> None:
    expected = expected_shares(toy_dataset)
    assert expected["unknown"]["tab"] > 0.3  # "late" comes after the training part
    assert Coverage.of_split(toy_dataset, "validation").remarks() == []


def test_a_feature_that_is_unknown_or_missing_in_most_rows_is_a_warning(toy_dataset: Dataset) -> None:
    expected = expected_shares(toy_dataset)
    coverage = Coverage(toy_dataset.transform.spec, expected)
    log = toy_frames()[0].head(300).with_columns(tab=pl.lit("home"))
    coverage.add(toy_dataset.transform.raw_batch(Chunk(log.with_columns(item_id=log["item_id"] + "?"), "rows")))
    said = {remark.feature: str(remark) for remark in coverage.remarks()}
    usual = f"{expected['unknown']['item_id']:.1%}".replace(".0%", "%")
    written = "are they written as in training?"
    assert said["item_id"] == f"warning: item_id: 100% of 300 rows unknown ({usual} in validation); {written}"
    share = f"{expected['missing']['category']:.1%}".replace(".0%", "%")
    assert said["category"] == f"warning: category: missing in 100% of 300 rows ({share} in training)"
    assert set(said) == {"item_id", "category", "price", "picture"}


@pytest.mark.parametrize(("share", "grave"), [(0.05, None), (0.2, False), (0.5, False), (0.6, True)])
def test_a_smaller_share_is_said_and_the_smallest_is_not(share: float, grave: bool | None) -> None:
    coverage = Coverage(SPEC, {"unknown": {"item": 0.02}})
    ids = torch.full((100, 2), 3)
    ids[: round(100 * share), 1] = 1
    nothing = {"clicks": torch.zeros(0, 1), "tags": torch.zeros(0, 1)}
    coverage.add(Batch(ids, torch.zeros(100, 3), nothing))
    assert [remark.grave for remark in coverage.remarks()] == ([] if grave is None else [grave])


def test_a_run_keeps_what_its_data_had(toy_run: RunFolder, toy_dataset: Dataset) -> None:
    assert toy_run.environment["data"]["coverage"] == expected_shares(toy_dataset)
