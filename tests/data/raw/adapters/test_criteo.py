"""Criteo: no header, no time, empty fields."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.adapters.criteo import COLUMNS
from unimixer.errors import UnimixerError

LINE = "\t".join(["1", "", "-1", *["5"] * 11, *["68fd1e64"] * 25, ""]) + "\n"


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_rows_have_a_label_13_counts_and_26_categories(tmp_path: Path, name: str) -> None:
    data = (LINE * 3).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    tables = open_raw("criteo", tmp_path)
    [chunk] = tables.impressions()
    assert chunk.frame.columns == list(COLUMNS)
    assert chunk.frame.height == 3
    assert chunk.frame.select("label", "I1", "I2", "C1", "C26").row(0) == ("1", "", "-1", "68fd1e64", "")
    kinds = [f.kind for f in tables.schema.features]
    assert kinds == ["numeric"] * 13 + ["categorical"] * 26
    assert tables.schema.keys.time is None
    assert tables.files == (tmp_path / name,)


def test_categories_are_counted_or_hashed(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(LINE)
    vocabulary = open_raw("criteo", tmp_path).schema.features[-1].vocabulary
    assert (vocabulary.policy, vocabulary.min_count) == ("vocab", 10)
    vocabulary = open_raw("criteo", tmp_path, hash_buckets=1000).schema.features[-1].vocabulary
    assert (vocabulary.policy, vocabulary.num_buckets) == ("hash", 1000)


def test_a_short_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(LINE + "1\t2\n")
    with pytest.raises(UnimixerError, match=r"train.txt, row 2: expected 40 fields, found 2"):
        list(open_raw("criteo", tmp_path).impressions())


def test_the_test_part_cannot_begin_before_the_validation_part(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"validation=0.95 must be less than test=0.9"):
        open_raw("criteo", tmp_path, validation=0.95)


def test_the_schema_says_how_the_file_is_read_and_two_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(LINE)
    files = open_raw("criteo", tmp_path).schema.files
    assert (files.separator, files.header, files.quote) == ("\t", COLUMNS, "")
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(LINE.encode()))
    with pytest.raises(UnimixerError, match=r"train.txt and train.txt.gz seem to hold the same rows"):
        open_raw("criteo", tmp_path)
