"""The table of contents of a bundle: format, what is inside, and a checksum of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.io import BUNDLE, check_kind, read_errors

FORMAT = 1
NAME = "manifest.json"


def digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            found.update(piece)
    return found.hexdigest()


def version_of(values: Mapping[str, Any]) -> str:
    """The content hash: of the manifest without itself, and so of every file."""
    rest = {name: value for name, value in values.items() if name != "version"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of all files that are in the folder; equal content has an equal version."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, **values, "files": files}
    manifest = {"format": FORMAT, "version": version_of(manifest), **manifest}
    (folder / NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and verify: format, the manifest's own hash, and the checksum of every file; nothing is loaded before.

    Raises:
        UnimixerError: one sentence with the file that is missing, truncated or changed.
    """
    check_kind(folder, BUNDLE, marker=NAME, make="unimixer export RUN")
    path = folder / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form, version, files = manifest["format"], manifest["version"], manifest["files"]
        entries = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except OSError:
        with read_errors(path):
            raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnimixerError(f"{path}: damaged ({error!r:.100}); export the run again") from None
    if form != FORMAT:
        raise UnimixerError(f"{path}: format {form}, this version reads {FORMAT}; export the run again")
    if version != version_of(manifest):
        raise UnimixerError(f"{path}: changed after it was written (its hash differs); export the run again")
    with read_errors(folder):
        for name, (size, expected) in entries.items():
            _check_file(folder, name, size, expected)
    return manifest


def _check_file(folder: Path, name: str, size: int, expected: str) -> None:
    path, parts = folder / name, PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise UnimixerError(f"{folder / NAME}: {name!r} is not a file inside the bundle; export the run again")
    if not path.is_file():
        raise UnimixerError(f"{path} is missing; export the run again")
    if (found := path.stat().st_size) != size:
        raise UnimixerError(f"{path} has {found} bytes, expected {size}: truncated or changed; export the run again")
    if digest(path) != expected:
        raise UnimixerError(f"{path}: changed after it was written (its checksum differs); export the run again")
