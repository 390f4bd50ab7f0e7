"""Files: a write happens whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimixer.bundles.manifest import read_manifest
from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.io import (
    DATASET,
    atomic_file,
    atomic_folder,
    check_kind,
    disk_errors,
    link_or_copy,
    near_file,
    read_errors,
    read_json,
    write_text,
)
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.settings import load_yaml
from unimixer.training.run import RunFolder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename moves nothing between disks
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store"
    with atomic_folder(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("1")
        assert not path.exists()
    assert (path / "sub" / "a").read_text() == "1"
    assert names(path.parent) == ["store"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "store") as temporary:
            (temporary / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_an_existing_folder_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("1")
    with (
        pytest.raises(UnimixerError, match="store exists; choose another folder, or pass --overwrite"),
        atomic_folder(path),
    ):
        pass
    with atomic_folder(path, overwrite=True) as temporary:
        (temporary / "new").write_text("2")
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == ["store"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def race() -> None:
        with atomic_folder(path):
            path.mkdir()
            (path / "theirs").write_text("1")

    with pytest.raises(UnimixerError, match="store exists"):
        race()
    assert names(path) == ["theirs"]
    assert names(tmp_path) == ["store"]


def test_a_failed_replacement_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("1")
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if source.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "full")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UnimixerError, match="the disk is full"), atomic_folder(path, overwrite=True):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["store"]


def test_what_a_killed_process_with_our_number_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".store.{os.getpid()}.tmp"
    left.mkdir()
    (left / "rest").write_text("1")
    with atomic_folder(tmp_path / "store") as temporary:
        (temporary / "a").write_text("2")
    assert names(tmp_path / "store") == ["a"]
    assert names(tmp_path) == ["store"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "taken").write_text("mine")
    with (
        pytest.raises(UnimixerError, match="taken is a file, expected a folder"),
        atomic_folder(tmp_path / "taken", overwrite=overwrite),
    ):
        pass
    for path in (tmp_path / "taken" / "store", tmp_path / "taken" / "deep" / "store"):
        with pytest.raises(UnimixerError, match="a part of the path is a file"), atomic_folder(path):
            pass
        with pytest.raises(UnimixerError, match="a part of the path is a file"):
            write_text(path, "text")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_a_refusal_of_the_system_is_one_sentence(number: int, reason: str) -> None:
    with (
        pytest.raises(UnimixerError, match=f"out: cannot write: .*{reason}; nothing half-written"),
        disk_errors(Path("out")),
    ):
        raise OSError(number, "x")


def test_a_file_that_cannot_be_read_on_the_way_is_named_instead_of_the_one_that_is_written(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    with pytest.raises(UnimixerError) as error, atomic_folder(tmp_path / "store"):
        raise PermissionError(errno.EACCES, "x", str(raw))
    assert str(error.value).startswith(f"{raw}: cannot read: permission denied; ")


@pytest.mark.parametrize("content", ["{", "[1]", '"x"', "\x00"])
def test_damaged_json_is_one_sentence_with_the_file_and_the_way_out(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, '{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_text(content)
    with pytest.raises(UnimixerError, match=r"a\.json: damaged: .*; make it again$"):
        read_json(path, way_out="make it again")
    path.unlink()
    with pytest.raises(UnimixerError, match=r"a\.json: no such file; make it again$"):
        read_json(path, way_out="make it again")


def test_a_path_that_is_missing_names_the_most_alike_one_beside_it(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UnimixerError, match=r"recipe\.yml: no such file; did you mean 'recipe\.yaml'\?$"):
        load_yaml(tmp_path / "recipe.yml")
    typo = toy_folder.with_name(toy_folder.name + "s")
    with pytest.raises(UnimixerError, match=rf"\(no manifest\.json\); did you mean '{toy_folder.name}'\?$"):
        check_kind(typo, DATASET, marker="manifest.json", make="unimixer data prepare")
    assert near_file(tmp_path / "else" / "recipe.yml") == near_file(tmp_path / "0") == ""


def test_what_is_given_in_the_place_of_something_else_is_called_by_its_name(
    toy_run: RunFolder, toy_folder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    write_text(bundle / "manifest.json", '{"format": 1, "graph": {}}')
    for opens, path, what in [
        (RunFolder, toy_folder, "is a prepared dataset, not a run folder; make one with: unimixer train"),
        (RunFolder, bundle, "is a bundle, not a run folder"),
        (RunFolder, bundle / "manifest.json", "is a file, not a run folder"),
        (Dataset, toy_run.folder, "is a run folder, not a prepared dataset; make one with: unimixer data prepare"),
        (Dataset, bundle, "is a bundle, not a prepared dataset"),
        (read_manifest, toy_folder, "is a prepared dataset, not a bundle; make one with: unimixer export RUN"),
        (read_manifest, toy_run.folder, "is a run folder, not a bundle"),
        (load_yaml, toy_run.folder, "is a run folder, expected a YAML file"),
        (SQLiteStore, toy_folder, "is a prepared dataset, not a feature store; make one with: unimixer store build"),
    ]:
        with pytest.raises(UnimixerError) as error:
            opens(path)  # type: ignore[operator]
        assert str(error.value).startswith(str(path))
        assert what in str(error.value)


def test_an_error_that_is_no_refusal_passes_unchanged() -> None:
    with pytest.raises(ConnectionError), disk_errors(Path("out")):
        raise ConnectionError


def test_a_linked_folder_has_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "a" / "sub" / "x").write_text("1")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "sub" / "x").read_text() == "1"


def test_a_folder_is_copied_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    test_a_linked_folder_has_the_same_files(tmp_path)


# ---- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_whatever_wrote_it_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    with atomic_file(tmp_path / "deep" / "a") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    assert mode(tmp_path / "deep" / "a") == 0o666 & ~umask
    assert mode(tmp_path / "deep") == 0o777 & ~umask


def test_whatever_wrote_them_the_contents_of_a_folder_have_the_modes_that_the_umask_gives(
    tmp_path: Path, umask: int
) -> None:
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "sub").mkdir(mode=0o700)
        (temporary / "sub" / "x").touch(mode=0o600)
        (temporary / "y").touch()
        (temporary / "y").chmod(0o777)
    folders, files = (tmp_path / "a", tmp_path / "a" / "sub"), (tmp_path / "a" / "y", tmp_path / "a" / "sub" / "x")
    assert {mode(path) for path in folders} == {0o777 & ~umask}
    assert {mode(path) for path in files} == {0o666 & ~umask}


def test_a_file_is_linked_only_where_it_has_the_mode_of_a_new_one(tmp_path: Path, umask: int) -> None:
    source = tmp_path / "a"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "own").touch(mode=0o600)
    (source / "same").touch()
    (source / "own").touch()
    (source / "own").chmod(0o604)
    with atomic_folder(tmp_path / "b") as temporary:
        link_or_copy(source, temporary / "t")
    copy = tmp_path / "b" / "t"
    assert {mode(copy / name) for name in ("same", "own", "sub/own")} == {0o666 & ~umask}
    assert {mode(copy), mode(copy / "sub")} == {0o777 & ~umask}
    assert (mode(source / "own"), mode(source / "sub" / "own")) == (0o604, 0o600 & ~umask)
    assert (copy / "same").samefile(source / "same")
    assert not (copy / "own").samefile(source / "own")


def test_a_file_that_may_not_be_read_says_so() -> None:
    with (
        pytest.raises(UnimixerError, match=r"^w: cannot read: permission denied; give this user the right to read it$"),
        read_errors(Path("w")),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(UnimixerError, match=r"^w: no such file$"), read_errors(Path("w")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "w")
    with pytest.raises(UnimixerError, match=r"^w: cannot read: Input/output error$"), read_errors(Path("w")):
        raise OSError(errno.EIO, "Input/output error")


def test_what_may_not_be_read_while_something_is_written_is_named_itself(tmp_path: Path) -> None:
    with (
        pytest.raises(UnimixerError, match=r"^input\.csv: cannot read: permission denied"),
        atomic_file(tmp_path / "out.csv"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "input.csv")


def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UnimixerError, match="a: cannot write: the name is too long"),
        atomic_folder(tmp_path / ("a" * 300)),
    ):
        pass
    with pytest.raises(UnimixerError, match="a: cannot write: the name is too long"):
        write_text(tmp_path / ("a" * 300), "text")
