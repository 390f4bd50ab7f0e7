"""Where a dataset came from: places and fingerprints that hold from any folder."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import SCHEMA, toy_frames

from unimixer import prepare
from unimixer.cli import main
from unimixer.data.dataset import Dataset
from unimixer.data.raw.origin import BLOCK_BYTES, BLOCKS, difference, fingerprints, recorded


def raw_folder(folder: Path, seed: int = 0) -> Path:
    """The small world as own files."""
    folder.mkdir(parents=True)
    for name, frame in zip(("impressions", "users", "items"), toy_frames(seed=seed), strict=True):
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def schema_file(folder: Path, **changes: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**SCHEMA, **changes}))
    return path


def test_the_two_ways_to_prepare_keep_the_same_absolute_origin_and_equal_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, schema = raw_folder(tmp_path / "here" / "raw"), schema_file(tmp_path / "here")
    first = prepare(schema, tmp_path / "first", raw=raw)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "toy.yaml", "--raw", "raw", "--out", "../second"])
    assert ended.value.code == 0
    second = Dataset(tmp_path / "second")
    assert second.manifest["origin"] == first.manifest["origin"]
    assert second.hash == first.hash
    origin = second.manifest["origin"]
    assert (origin["source"], origin["raw"]) == (str(schema), str(raw))
    assert [file["name"] for file in origin["files"]] == ["impressions.parquet", "users.parquet", "items.parquet"]
    assert [file["bytes"] for file in origin["files"]] == [(raw / f["name"]).stat().st_size for f in origin["files"]]
    other = prepare(schema, tmp_path / "third", raw=raw.rename(tmp_path / "moved"))
    assert other.hash == first.hash  # the place of the files is no part of the content


def test_a_fingerprint_knows_files_by_what_they_hold(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    before = fingerprints([a, b])
    c.write_bytes(b"one")
    assert difference([c, b], before) is None  # a name is not content
    assert difference([b, a], before) == f"{b} has other content than a had"
    assert difference([a], before) == "b is not there"
    assert difference([a, b, c], before) == f"{c} was not there"
    b.write_bytes(b"twos")
    assert difference([a, b], before) == f"{b} has 4 bytes, b had 3"


@pytest.mark.parametrize("place", [0, 1, BLOCK_BYTES - 1, -1, -BLOCK_BYTES])
def test_a_fingerprint_of_a_big_file_sees_its_head_and_its_tail(place: int, tmp_path: Path) -> None:
    path = tmp_path / "big"
    content = bytearray(3 * BLOCKS * BLOCK_BYTES)
    path.write_bytes(content)
    before = fingerprints([path])
    content[place] = 1
    path.write_bytes(content)
    assert difference([path], before) == f"{path} has other content than big had"


def test_options_are_kept_as_json_has_them() -> None:
    found = recorded("avazu", {"validation": date(2014, 10, 29), "min_count": 3})
    assert found == {"source": "avazu", "options": {"validation": "2014-10-29", "min_count": 3}}
    assert json.loads(json.dumps(found)) == found
