"""A feature store is built of the raw data that a run was trained on, and of nothing else without a word."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from tiny import tiny_recipe
from toy import SCHEMA, toy_frames

from unimixer import prepare, train
from unimixer.errors import UnimixerError
from unimixer.serving.stores.build import build_store
from unimixer.training.run import RunFolder


@dataclass
class Trained:
    folder: Path
    run: Path


def write_raw(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for name, frame in zip(("impressions", "users", "items"), toy_frames(seed=seed), strict=True):
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on own files that were prepared by a relative name."""
    folder = tmp_path_factory.mktemp("own")
    write_raw(folder / "here" / "raw")
    (folder / "here" / "toy.yaml").write_text(yaml.safe_dump(SCHEMA))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        prepare("toy.yaml", "store", raw="raw")
        train(tiny_recipe("store", "training.max_steps=1"), folder="run", quiet=True)
    return Trained(folder, folder / "here" / "run")


@pytest.fixture
def own(original: Trained, tmp_path: Path) -> Trained:
    """A copy that a test may change, with the origin at its new place."""
    shutil.copytree(original.folder, tmp_path / "own")
    for name in ("run/environment.json", "store/manifest.json"):
        file = tmp_path / "own" / "here" / name
        file.write_text(file.read_text().replace(str(original.folder), str(tmp_path / "own")))
    return Trained(tmp_path / "own", tmp_path / "own" / "here" / "run")


CLICKS = toy_frames()[0].filter(pl.col("is_click") == 1).height


@pytest.mark.parametrize("prepared", ["run", "store"])
def test_files_of_the_same_name_in_the_current_folder_are_not_taken(
    prepared: str, own: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path / "other" / "raw", seed=5)
    (tmp_path / "other" / "toy.yaml").write_text(
        yaml.safe_dump({**SCHEMA, "histories": [], "features": SCHEMA["features"][:2]})
    )
    monkeypatch.chdir(tmp_path / "other")
    counts = build_store(own.run.parent / prepared, str(tmp_path / "f.sqlite"))
    assert counts == {"users": 12, "items": 30, "events": CLICKS}


def test_the_schema_is_that_of_the_run_whatever_became_of_its_file(own: Trained, tmp_path: Path) -> None:
    file = own.run.parent / "toy.yaml"
    file.write_text(yaml.safe_dump({**SCHEMA, "histories": [{"name": "clicks", "max_length": 5}]}))
    assert build_store(own.run, str(tmp_path / "a.sqlite"))["events"] == CLICKS
    with pytest.raises(UnimixerError, match=r"toy\.yaml: its histories differ from those of .*run; leave"):
        build_store(own.run, str(tmp_path / "b.sqlite"), source=str(file))
    file.unlink()
    assert build_store(own.run, str(tmp_path / "c.sqlite"))["events"] == CLICKS


def test_raw_data_that_moved_is_known_again(own: Trained, tmp_path: Path) -> None:
    (own.run.parent / "raw").rename(tmp_path / "moved")
    with pytest.raises(UnimixerError, match=r"was made from .*raw, which no longer exists; give the path with --raw"):
        build_store(own.run, str(tmp_path / "a.sqlite"))
    assert build_store(own.run, str(tmp_path / "b.sqlite"), raw=tmp_path / "moved")["events"] == CLICKS
    shutil.rmtree(own.run.parent / "store")  # a run knows it too
    assert build_store(own.run, str(tmp_path / "c.sqlite"), raw=tmp_path / "moved")["events"] == CLICKS


def test_other_raw_data_is_refused_unless_it_is_meant(
    own: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = toy_frames()[0]
    log.tail(200).write_parquet(own.run.parent / "raw" / "impressions-2.parquet")
    said = (
        r"impressions-2\.parquet .* when .*run was made; give that raw data with --raw, or accept .* with --other-data"
    )
    with pytest.raises(UnimixerError, match=said):
        build_store(own.run, str(tmp_path / "a.sqlite"))
    assert not (tmp_path / "a.sqlite").exists()
    more = log.tail(200).filter(pl.col("is_click") == 1).height
    assert build_store(own.run, str(tmp_path / "b.sqlite"), other_data=True)["events"] == CLICKS + more
    assert "the raw data differs from that of" in capsys.readouterr().err


def test_a_path_that_is_neither_a_run_nor_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UnimixerError, match="nothing is neither a run folder nor a prepared dataset; name one, as made by"
    ):
        build_store(tmp_path / "nothing", str(tmp_path / "a.sqlite"))


def test_a_store_without_a_place_or_a_fingerprint_says_so(
    own: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = RunFolder(own.run), own.run / "environment.json"
    values = run.environment
    raw, schema = own.run.parent / "raw", str(own.run.parent / "toy.yaml")
    values["data"]["origin"] = {"source": schema, "raw": "raw", "options": {}}
    run.write_json(file.name, values)
    with pytest.raises(UnimixerError, match="was made from raw in an unknown folder; give the path with --raw"):
        build_store(own.run, str(tmp_path / "a.sqlite"))
    assert build_store(own.run, str(tmp_path / "b.sqlite"), raw=raw)["events"] == CLICKS
    assert "has no fingerprint of its raw data" in capsys.readouterr().err
    del values["data"]["origin"]
    run.write_json(file.name, values)
    with pytest.raises(UnimixerError, match="does not record its data set or schema; name it"):
        build_store(own.run, str(tmp_path / "c.sqlite"), raw=raw)
