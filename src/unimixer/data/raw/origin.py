"""Record the origin of a dataset: absolute paths and fingerprints of the files that were read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimixer.data.raw.adapters import ADAPTERS, open_raw
from unimixer.data.raw.tables import RawTables

BLOCKS, BLOCK_BYTES = 16, 1 << 16
"""A fingerprint reads this many blocks of this size, evenly spaced, the first and the last of a file among them."""


def open_source(source: str, raw: Path | None, options: Mapping[str, Any]) -> tuple[RawTables, dict[str, Any]]:
    """Open raw data and return its tables and its origin, which the manifest of a dataset keeps.

    Args:
        source: name of a data set, or a schema file.
        raw: the folder, or the file, with the raw data.
        options: of the data set.
    """
    tables = open_raw(source, raw, **options)
    path = None if raw is None else str(raw.resolve())
    return tables, {**recorded(source, options), "raw": path, "files": fingerprints(tables.files)}


def recorded(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source and its options in the form that a manifest keeps."""
    return {
        "source": source if source in ADAPTERS else str(Path(source).resolve()),
        "options": json.loads(json.dumps(dict(options), default=str)),
    }


def fingerprints(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return name, size and digest of some files; big files are not read whole."""
    return [{"name": path.name, "bytes": path.stat().st_size, "digest": _digest(path)} for path in files]


def difference(files: Sequence[Path], expected: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first difference between files and earlier fingerprints, whatever the names, or None.

    A file that was edited between the blocks and kept its size is not noticed.
    """
    for path, now, before in zip(files, fingerprints(files), expected, strict=False):
        if now["bytes"] != before["bytes"]:
            return f"{path} has {now['bytes']:,} bytes, {before['name']} had {before['bytes']:,}"
        if now["digest"] != before["digest"]:
            return f"{path} has other content than {before['name']} had"
    if len(files) > len(expected):
        return f"{files[len(expected)]} was not there"
    return f"{expected[len(files)]['name']} is not there" if len(files) < len(expected) else None


def _digest(path: Path) -> str:
    """Compute the digest of a whole small file, or of evenly spaced blocks of a big one."""
    size, content = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if size <= BLOCKS * BLOCK_BYTES:
            content.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
                content.update(file.read(BLOCK_BYTES))
    return content.hexdigest()
