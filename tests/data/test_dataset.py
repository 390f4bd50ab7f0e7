"""The dataset: what is damaged is found before it is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unimixer.data.dataset import Dataset, dataset_path
from unimixer.errors import UnimixerError

PART = "train/part-00000.arrow"


@pytest.fixture
def folder(toy_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(toy_folder, tmp_path / "toy"))


def message(folder: Path) -> str:
    with pytest.raises(UnimixerError) as error:
        Dataset(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_changed_byte_is_found_when_the_part_is_first_used(folder: Path) -> None:
    path = folder / PART
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    dataset = Dataset(folder)
    assert dataset.summary("train").rows > 0
    for _ in range(2):
        with pytest.raises(UnimixerError, match=r"part-00000\.arrow: damaged \(checksum differs\); prepare the data"):
            dataset.part("train", 0)
    assert len(dataset.part("test", 0)) == dataset.summary("test").rows


def test_a_truncated_part_is_found_at_opening(folder: Path) -> None:
    path = folder / PART
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} has {size - 100} bytes, expected {size}: truncated or changed" in message(folder)


def test_a_missing_part_is_found_at_opening(folder: Path) -> None:
    (folder / PART).unlink()
    assert message(folder) == f"{folder / PART} is missing; prepare the data again"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "3", '{"format": 1}', '{"format": 1, "splits": {"train": {"rows": 1}}}', "\udcff"],
)
def test_a_damaged_manifest_is_named(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message(folder).startswith(f"{folder / 'manifest.json'}: damaged (")


def test_an_unknown_field_of_a_split_is_damage(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["splits"]["train"]["extra"] = 1
    path.write_text(json.dumps(manifest))
    assert "manifest.json: damaged" in message(folder)


def test_another_format_is_named_whatever_else_has_changed(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 2, "parts": []}')
    assert message(folder).endswith("manifest.json: format 2, this version reads 1; prepare the data again")


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = message(tmp_path / "file")
    assert found == f"{tmp_path}/file is a file, not a prepared dataset; make one with: unimixer data prepare"
    for place in (tmp_path, tmp_path / "nowhere"):
        expected = f"{place} is not a prepared dataset (no manifest.json); make one with: unimixer data prepare"
        assert message(place) == expected


def test_a_damaged_transform_is_found_when_it_is_used(folder: Path) -> None:
    path = folder / "transform" / "users.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    dataset = Dataset(folder)
    with pytest.raises(UnimixerError, match=r"users\.arrow: missing or damaged"):
        _ = dataset.transform


def test_an_unknown_split_gets_the_nearest_name(toy_dataset: Dataset) -> None:
    with pytest.raises(UnimixerError, match="unknown split 'tset'; did you mean 'test'"):
        toy_dataset.summary("tset")


def test_a_moved_dataset_is_the_same_dataset(folder: Path, toy_dataset: Dataset) -> None:
    moved = Dataset(folder.rename(folder.parent / "elsewhere"))
    assert moved.hash == toy_dataset.hash
    assert len(moved.part("train", 0)) == len(toy_dataset.part("train", 0))


def test_a_name_is_looked_up_among_the_datasets_and_a_path_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIMIXER_DATASETS", raising=False)
    assert dataset_path("toy") == Path("datasets/toy")
    monkeypatch.setenv("UNIMIXER_DATASETS", "/data")
    assert dataset_path("toy") == Path("/data/toy")
    assert dataset_path("./sub/toy") == Path("sub/toy")
    assert dataset_path("/else/toy") == Path("/else/toy")
    (tmp_path / "toy").mkdir()
    assert dataset_path("toy") == Path("toy")
