"""Write files and folders whole or not at all; read those of this program."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unimixer.errors import UnimixerError, did_you_mean, io_failure

RUN, DATASET, BUNDLE, DELTA = "a run folder", "a prepared dataset", "a bundle", "a delta of a bundle"
_MADE = {"config.yaml": RUN, "study.yaml": "a study", "sweep.yaml": "a sweep", "search.yaml": "a search"}
_COMPARED = 1000  # names of a folder that are compared with a missing one at most
_BY_MANIFEST = {"splits": DATASET, "graph": BUNDLE, "follows": DELTA}


class DiskError(UnimixerError):
    """A file could not be written."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write below ``path``, of the system or of a library, into one sentence."""
    try:
        yield
    except BaseException as error:  # polars panics with an error that is no Exception
        failure = io_failure(error)
        if failure is None:
            raise
        if _of_another(error, path):  # a file that is read on the way, not the one that is written
            with read_errors(path):
                raise
        raise DiskError(
            f"{path}: cannot write: {failure.reason}; nothing half-written was left; {failure.way_out}"
        ) from error


def _of_another(error: BaseException, path: Path) -> bool:
    """Return whether an error names a file that is neither ``path`` nor above, below or in place of it."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str):
        return False
    ours, theirs = path.absolute(), Path(name).absolute()
    related = theirs.is_relative_to(ours) or ours.is_relative_to(theirs)
    return not related and not any(part.startswith(f".{path.name}.") for part in theirs.parts)


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read ``path`` into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file{near_file(path)}") from None
    except PermissionError as error:
        raise UnimixerError(
            f"{error.filename or path}: cannot read: permission denied; give this user the right to read it"
        ) from None
    except OSError as error:
        raise UnimixerError(f"{error.filename or path}: cannot read: {error.strerror or error}") from error


def near_file(path: Path) -> str:
    """Return ``"; did you mean 'x'?"`` for the name beside a missing file that is most like its name, else nothing."""
    with suppress(OSError):
        names = [other.name for other in path.parent.iterdir()]
        return did_you_mean(path.name, names) if len(names) <= _COMPARED else ""
    return ""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Open an empty temporary file that becomes ``path`` on success and is removed on failure.

    The file gets the mode of a new file, which the umask gives, whichever library wrote it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()  # now, so that its mode is known and a folder that takes no files is refused at once
            mode = _mode(temporary)
            yield temporary
            _set_mode(temporary, mode)
            _sync(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, kind: str | None = None) -> Iterator[Path]:
    """Make a temporary folder that becomes ``path`` on success and is removed on failure.

    Files and folders inside get the modes of new ones, which the umask gives, whichever library wrote them.

    Args:
        path: the folder.
        overwrite: replace an existing folder.
        kind: the only kind of folder (:func:`kind_of`) that is replaced; a mistyped path deletes no other data.

    Raises:
        UnimixerError: if ``path`` exists and must not be replaced.
    """
    with disk_errors(path):
        _check_free(path, overwrite, kind)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our number
            temporary.mkdir(parents=True)
            yield temporary
            flush_folder(temporary)
            _check_free(path, overwrite, kind)
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_free(path: Path, overwrite: bool, kind: str | None) -> None:
    if path.exists() and not path.is_dir():
        raise UnimixerError(f"{path} is a file, expected a folder or a new name")
    if path.exists() and not overwrite:
        raise UnimixerError(f"{path} exists; choose another folder, or pass --overwrite to replace it")
    if path.exists() and kind is not None and any(path.iterdir()) and (actual := kind_of(path)) != kind:
        raise UnimixerError(
            f"{path} exists and is {actual or 'a folder with other files'}, not {kind}, so it is not replaced; "
            "choose another folder"
        )


def check_foreign(folder: Path, own: str | None = None) -> None:
    """Raise if files are to be written into a folder that is a run, a dataset or the like, and not of the own kind."""
    if folder.is_dir() and (kind := kind_of(folder)) not in (None, own):
        raise UnimixerError(f"{folder} is {kind}, which gets no other files; choose another --out")


def check_not_read(output: Path, *inputs: Path) -> None:
    """Raise if a result would replace what it is made from, or lie in a folder that is read."""
    for path in inputs:
        if output.resolve().is_relative_to(path.resolve()):
            where = "is" if output.resolve() == path.resolve() else f"lies in {path}, which is"
            raise UnimixerError(f"{output} {where} what the result is made from; choose another name")


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def kind_of(path: Path) -> str | None:
    """Recognize a run, a dataset, a bundle, a study, a sweep or a search by the files in its folder."""
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
    """Raise if a path is of another kind than needed; the message names its kind.

    Args:
        path: of the user.
        kind: the needed kind, see :func:`kind_of`.
        marker: file that marks the kind.
        make: command that makes one.
    """
    with read_errors(path):
        actual, marked = kind_of(path), (path / marker).is_file()
    if actual is not None and actual != kind:
        raise UnimixerError(f"{path} is {actual}, not {kind}; make one with: {make}")
    if not marked:
        last = max(path.glob(f"*/{marker}"), default=None)
        near = f"; the last one in it is {last.parent}" if last else "" if path.exists() else near_file(path)
        raise UnimixerError(f"{path} is not {kind} (no {marker}){near or f'; make one with: {make}'}")


def read_json(path: Path, *keys: str, way_out: str = "restore the file from a copy") -> dict[str, Any]:
    """Read a JSON object that this program wrote.

    Args:
        path: the file.
        keys: that the object must have.
        way_out: the advice for a damaged file.

    Raises:
        UnimixerError: it is missing, cannot be read, holds no JSON object, or lacks a key.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file; {way_out}") from None
    except OSError:
        with read_errors(path):
            raise
    except (ValueError, RecursionError) as error:
        raise UnimixerError(f"{path}: damaged: not valid JSON ({error}); {way_out}") from None
    if not isinstance(values, dict):
        raise UnimixerError(f"{path}: damaged: expected a JSON object, found {type(values).__name__}; {way_out}")
    for key in keys:
        if key not in values:
            raise lacking(path, key, way_out)
    return values


def lacking(path: Path, key: str, way_out: str) -> UnimixerError:
    """Make the error for a file of this program that lacks a key."""
    return UnimixerError(f"{path}: has no {key!r}: another version wrote it, or it was changed; {way_out}")


def link_or_copy(source: Path, target: Path) -> None:
    """Copy a folder of files that are never changed in place, by hard links if the file system allows them.

    A link shares the mode of its source, so a file whose mode is not that of a new one is copied.
    """
    target.mkdir(parents=True)
    new = _mode(target) & _PLAIN
    for path in sorted(source.iterdir()):
        if path.is_dir():
            link_or_copy(path, target / path.name)
            continue
        try:
            if _mode(path) != new:
                raise OSError("a link would share the mode")
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def link_file(source: Path, target: Path) -> bool:
    """Link a file that is never changed in place, or copy it; return whether it exists."""
    if not source.exists():
        return False
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return True


def replace_folder(temporary: Path, path: Path) -> None:
    """Rename a complete folder; the old folder of that name is kept until then, and restored if the rename fails."""
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


def flush_folder(folder: Path) -> None:
    """Give the contents of a new folder the mode of new files, which the folder has, and flush them to the disk."""
    mode = _mode(folder)
    for path in folder.rglob("*"):
        if path.is_dir():
            _set_mode(path, mode)
        elif path.is_file():
            _set_mode(path, mode & _PLAIN)
            _sync(path)


_PLAIN = 0o666
"""The bits of the mode of a file that is no program."""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _set_mode(path: Path, mode: int) -> None:
    """Set a mode: some libraries make files that only their owner can read, whatever the umask."""
    if _mode(path) != mode:
        path.chmod(mode)


def _sync(path: Path) -> None:
    """Flush a file to the disk before it gets its name, so that a power cut cannot leave an empty one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock that ends with the process, whatever ends it.

    Args:
        path: file of the lock.
        busy: sentence for the error where another process holds the lock.
    """
    lock = FileLock(path, blocking=False)
    with disk_errors(path):
        try:
            lock.acquire()
        except Timeout:
            raise UnimixerError(busy) from None
    try:
        yield
    finally:
        lock.release()
