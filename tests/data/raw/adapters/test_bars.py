"""The splits of BARS on made files of their layout: parts by file, columns, thresholds, published sequences."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.adapters.avazu import COLUMNS as AVAZU_COLUMNS
from unimixer.data.raw.adapters.bars import AD_FIELDS, BENCHMARKS, USER_FIELDS
from unimixer.data.raw.adapters.criteo import CATEGORIES, COUNTS
from unimixer.data.schema import SPLITS
from unimixer.data.split_settings import ColumnSplit
from unimixer.errors import UnimixerError

HEADERS: dict[str, list[str]] = {
    "criteo-x1": ["label", *COUNTS, *CATEGORIES],
    "criteo-x4": ["Label", *COUNTS, *CATEGORIES],
    "avazu-x1": ["label", *(f"feat_{i}" for i in range(1, 23))],
    "avazu-x4": ["id", *AVAZU_COLUMNS],
    "movielenslatest-x1": ["label", "user_id", "item_id", "tag_id"],
    "kuaivideo-x1": [
        *("timestamp", "user_id", "item_id", "is_click", "is_like", "is_follow", "pos_items", "neg_items"),
    ],
    "taobaoad-x1": ["clk", "btag_his", "cate_his", "brand_his", *USER_FIELDS, *AD_FIELDS, "price", "pid", "btag"],
}
LABELS = {"label", "Label", "click", "is_click", "clk"}


def value(column: str, row: int, *, negative: str) -> str:
    """A value of a column that fits its kind; labels alternate."""
    if column in LABELS:
        return ("1", negative)[row % 2]
    if column == "hour":
        return f"141021{row % 24:02d}"
    if column.endswith("_his") or column in ("pos_items", "neg_items"):
        return f"{row % 3}^{row % 5}"
    return str(row % 4)


def make(folder: Path, source: str, *, negative: str = "0") -> Path:
    """Write 40 training rows, and 4 rows of every other file that the split has."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": 40, "test": 4} | ({"valid": 4} if BENCHMARKS[source].has_validation else {})
    for name, rows in files.items():
        lines = [",".join(value(c, row, negative=negative) for c in HEADERS[source]) for row in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join([",".join(HEADERS[source]), *lines]) + "\n")
    return folder


@pytest.mark.parametrize("source", sorted(BENCHMARKS))
def test_the_parts_are_those_of_the_files(source: str, tmp_path: Path) -> None:
    make(tmp_path / "raw" / source, source)
    tables = open_raw(source, tmp_path / "raw", min_count=1)
    dataset = prepare(tables, tmp_path / "store")
    rows = {split: dataset.summary(split).rows for split in SPLITS}
    assert rows["test"] == 4
    assert rows["train"] + rows["validation"] == (44 if BENCHMARKS[source].has_validation else 40)
    if BENCHMARKS[source].has_validation:
        assert rows["validation"] == 4
        assert tables.schema.split == ColumnSplit(column="part")
    features = {feature.column for feature in tables.schema.features}
    left_out = {"id", "timestamp", "is_like", "is_follow", "hour", "btag"}
    assert features - {"time"} == set(HEADERS[source]) - LABELS - left_out
    assert [Path(file).name for file in tables.files] == [
        *(["train.csv", "valid.csv", "test.csv"] if BENCHMARKS[source].has_validation else ["train.csv", "test.csv"])
    ]


def test_rare_values_are_cut_where_the_benchmark_cuts_them() -> None:
    cuts = {name: benchmark.min_count for name, benchmark in BENCHMARKS.items()}
    tens = {"criteo-x4", "kuaivideo-x1", "taobaoad-x1"}
    assert cuts == {name: 10 if name in tens else 2 if name == "avazu-x4" else 1 for name in BENCHMARKS}


def test_a_tag_that_was_not_assigned_may_be_0_or_minus_1(tmp_path: Path) -> None:
    for negative in ("0", "-1"):
        dataset = prepare(
            open_raw("movielenslatest-x1", make(tmp_path / negative, "movielenslatest-x1", negative=negative)),
            tmp_path / f"store{negative}",
        )
        labels = np.concatenate([part.labels[:, 0] for part in dataset.parts("train")])
        assert labels.tolist() == [1, 0] * 20


def test_without_a_published_validation_part_a_share_of_the_training_rows_validates(tmp_path: Path) -> None:
    raw = make(tmp_path, "kuaivideo-x1")
    assert open_raw("kuaivideo-x1", raw).schema.split == ColumnSplit(column="part", validation=0.1)
    assert open_raw("kuaivideo-x1", raw, validation=0.3).schema.split == ColumnSplit(column="part", validation=0.3)
    with pytest.raises(UnimixerError, match=r"criteo-x1: validation=0.3, but its valid.csv validates; drop the option"):
        open_raw("criteo-x1", make(tmp_path / "criteo", "criteo-x1"), validation=0.3)


def test_published_sequences_share_the_table_of_the_candidate(tmp_path: Path) -> None:
    features = open_raw("taobaoad-x1", make(tmp_path, "taobaoad-x1")).schema.features
    tables = {feature.name: feature.table_name for feature in features if feature.kind == "sequence"}
    assert tables == {"cate_his": "cate_id", "brand_his": "brand", "btag_his": "btag_his"}


class Stored:
    """Stands for a file of h5py, which need not be installed."""

    def __init__(self, path: Path) -> None:
        self.data = {"key": np.arange(4), "value": np.arange(4 * 64, dtype=np.float64).reshape(4, 64)}

    def __enter__(self) -> dict[str, Any]:
        return self.data

    def __exit__(self, *error: object) -> None: ...


def test_visual_vectors_are_read_when_asked_for_and_named_when_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make(tmp_path / "raw", "kuaivideo-x1")
    (raw / "item_visual_emb_dim64.h5").touch()
    assert open_raw("kuaivideo-x1", raw).items is None
    assert "item_visual_emb_dim64.h5: not read; embeddings=true reads" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UnimixerError, match=r"vectors in HDF5 need h5py, which is not installed: pip install h5py"):
        open_raw("kuaivideo-x1", raw, embeddings=True)
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=Stored))
    tables = open_raw("kuaivideo-x1", raw, embeddings=True, min_count=1)
    dataset = prepare(tables, tmp_path / "store")
    assert [(field.name, field.width) for field in dataset.transform.spec.dense] == [("visual", 64)]
    assert tables.items is not None
    assert tables.items.frame.row(1)[0] == 1
    assert tables.items.frame.get_column("visual")[1].to_list() == list(range(64, 128))
    with pytest.raises(UnimixerError, match=r"avazu-x1: embeddings=True, but only kuaivideo-x1 has vectors"):
        open_raw("avazu-x1", make(tmp_path / "avazu", "avazu-x1"), embeddings=True)
