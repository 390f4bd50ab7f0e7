"""Writes that either happen whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.refusals import explain, refusal

RUN, STORE, BUNDLE = "a run folder", "a prepared store", "a bundle"
_MADE = {"config.yaml": RUN, "study.yaml": "a study", "sweep.yaml": "a sweep"}
_BY_MANIFEST = {"splits": STORE, "graph": BUNDLE}


class DiskError(UnimixerError):
    """A file could not be written."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a refusal to write below ``path``, of the system or of a library in its place, into one sentence."""
    try:
        yield
    except BaseException as error:  # polars panics with an error that is no Exception
        found = refusal(error)
        if found is None:
            raise
        if _of_another(error, path):  # a file that is read on the way, not the one that is written
            raise UnimixerError(explain(error)) from error
        raise DiskError(
            f"{path}: cannot write: {found.reason}; nothing half-written was left; {found.way_out}"
        ) from error


def _of_another(error: BaseException, path: Path) -> bool:
    """Whether an error names a file that is neither ``path`` nor above, below or in the place of it."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str):
        return False
    ours, found = path.absolute(), Path(name).absolute()
    related = found.is_relative_to(ours) or ours.is_relative_to(found)
    return not related and not any(part.startswith(f".{path.name}.") for part in found.parts)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success it becomes ``path``, on failure it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes ``path``, on failure it is removed.

    Raises:
        UnimixerError: if ``path`` exists and must not be replaced.
    """
    _check_free(path, overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our number
            temporary.mkdir(parents=True)
            yield temporary
            sync_files(temporary)
            _check_free(path, overwrite)
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise UnimixerError(f"{path} is a file, expected a folder or a new name")
    if path.exists() and not overwrite:
        raise UnimixerError(f"{path} exists; choose another folder, or pass --overwrite to replace it")


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def kind_of(path: Path) -> str | None:
    """What stands at a path, as far as this program makes it: told by the files in it."""
    if path.is_file():
        return "a file"
    for name, kind in _MADE.items():
        if (path / name).is_file():
            return kind
    with suppress(UnimixerError):
        manifest = read_json(path / "manifest.json")
        return next((kind for key, kind in _BY_MANIFEST.items() if key in manifest), None)
    return None


def check_kind(path: Path, kind: str, *, marker: str, make: str) -> None:
    """Raise where a path is something else than what is needed; the message says what it is.

    Args:
        path: what was given.
        kind: what is needed, see :func:`kind_of`.
        marker: file that it has.
        make: command that makes one.
    """
    found = kind_of(path)
    if found is not None and found != kind:
        raise UnimixerError(f"{path} is {found}, not {kind}; make one with: {make}")
    if not (path / marker).is_file():
        raise UnimixerError(f"{path} is not {kind} (no {marker}); make one with: {make}")


def read_json(path: Path, *, way_out: str = "restore the file from a copy") -> dict[str, Any]:
    """Read a JSON object that this program wrote.

    Args:
        path: the file.
        way_out: what to do where it is damaged.

    Raises:
        UnimixerError: it is missing, cannot be read, or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file; {way_out}") from None
    except OSError as error:
        raise UnimixerError(f"{path}: cannot read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UnimixerError(f"{path}: damaged: not valid JSON ({error}); {way_out}") from None
    if not isinstance(values, dict):
        raise UnimixerError(f"{path}: damaged: expected a JSON object, found {type(values).__name__}; {way_out}")
    return values


def link_or_copy(source: Path, target: Path) -> None:
    """Copy a folder of files that are never changed in place; hard links where the file system allows them."""

    def copy(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:
            shutil.copyfile(a, b)

    shutil.copytree(source, target, copy_function=copy)


def replace_folder(temporary: Path, path: Path) -> None:
    """Give a whole folder its name; one that has the name stays until then, and comes back if that fails."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Hand all files of a folder to the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            _sync(file)


def _sync(path: Path) -> None:
    """Hand the file to the disk before it gets its name, so that a power cut cannot leave an empty one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
