"""Evaluation of a finished run equals what the run reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from toy import DAY, START, toy_frames, toy_tables

from unimixer.api import evaluate
from unimixer.data.coverage import UnknownValuesWarning
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.training.evaluation import as_json
from unimixer.training.run import RunFolder

LOG = toy_frames()[0]
TEST_ROWS = LOG.filter(pl.col("time_ms") >= START + 8 * DAY)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_measures_what_the_run_reported(split: str, toy_run: RunFolder) -> None:
    assert as_json(evaluate(toy_run.folder, split)) == (toy_run.result or {})[split]


def test_the_training_part_can_be_measured_too(toy_run: RunFolder, toy_dataset: Dataset) -> None:
    assert evaluate(toy_run.folder, "train")["is_click"].num_rows == toy_dataset.summary("train").rows


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_of_the_rows_of_a_split_measures_the_same(ending: str, toy_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / f"test.{ending}"
    TEST_ROWS.write_parquet(path) if ending == "parquet" else TEST_ROWS.write_csv(path)
    for task, found in as_json(evaluate(toy_run.folder, rows=path)).items():
        assert found == pytest.approx((toy_run.result or {})["test"][task], abs=1e-6)


def test_a_file_may_have_users_never_seen(toy_run: RunFolder, tmp_path: Path) -> None:
    rows = TEST_ROWS.with_columns(user_id=pl.lit("new-") + pl.col("user_id"))
    rows.write_parquet(tmp_path / "new.parquet")
    with pytest.warns(UnknownValuesWarning) as caught:
        found = evaluate(toy_run.folder, rows=tmp_path / "new.parquet")["is_click"]
    assert f"user_id: 100% of {rows.height} rows unknown (0% in validation)" in str(caught[0].message)
    assert found.users_counted == (toy_run.result or {})["test"]["is_click"]["users_counted"]


def test_a_file_without_labels_or_with_one_class_is_refused(toy_run: RunFolder, tmp_path: Path) -> None:
    TEST_ROWS.drop("is_click").write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UnimixerError, match="missing column 'is_click'"):
        evaluate(toy_run.folder, rows=tmp_path / "a.parquet")
    TEST_ROWS.filter(pl.col("is_click") == 1).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(UnimixerError, match="label 'is_click' is 1 in all"):
        evaluate(toy_run.folder, rows=tmp_path / "b.parquet")


def test_an_unknown_split_is_refused(toy_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match=r"unknown split 'tset'; did you mean 'test'\?"):
        evaluate(toy_run.folder, "tset")


def test_a_dataset_that_moved_is_named_and_one_that_changed_is_refused(
    toy_run: RunFolder, toy_dataset: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(toy_dataset.folder, tmp_path / "moved")
    moved = as_json(evaluate(toy_run.folder, "test", dataset=tmp_path / "moved"))
    assert moved == (toy_run.result or {})["test"]
    other = prepare(toy_tables(seed=1), tmp_path / "other")
    with pytest.raises(UnimixerError, match=rf"has content {other.hash}, the run was trained on {toy_dataset.hash};"):
        evaluate(toy_run.folder, "test", dataset=other.folder)
    part = next((tmp_path / "moved" / "test").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(UnimixerError, match="damaged"):
        evaluate(toy_run.folder, "test", dataset=tmp_path / "moved")


def test_a_run_trained_on_a_gpu_is_evaluated_where_there_is_none(toy_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_run.folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda:7"))
    found = as_json(evaluate(tmp_path / "run", "test", device="cpu"))
    assert found == (toy_run.result or {})["test"]
    json.dumps(found)


def test_splits_joined_by_a_plus_are_measured_as_one(toy_run: RunFolder, toy_dataset: Dataset) -> None:
    single = [evaluate(toy_run.folder, split) for split in ("validation", "test")]
    both = evaluate(toy_run.folder, "validation+test")
    for task, values in both.items():
        assert values.num_rows == sum(part[task].num_rows for part in single)
        losses = sum(part[task].log_loss * part[task].num_rows for part in single)
        assert values.log_loss == pytest.approx(losses / values.num_rows, rel=1e-9)
    with pytest.raises(UnimixerError, match="unknown split 'tset'; did you mean 'test'"):
        evaluate(toy_run.folder, "validation+tset")
