"""The prepared data of an experiment: named in the plan, prepared where missing, opened and identified by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from unimixer.api import prepare
from unimixer.data.dataset import Store, find_store
from unimixer.data.raw.adapters import ADAPTERS
from unimixer.data.raw.origin import recorded
from unimixer.errors import UnimixerError
from unimixer.experiments.models import slug
from unimixer.settings import Settings

GENERATED = ("synthetic",)
"""Sources that need no files."""


class StoreRef(Settings):
    """Prepared data that an experiment reads."""

    path: str
    name: str = ""
    hash: str = ""
    source: str = ""
    """The adapter (or schema file) that prepares a missing store, see ``--raw``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that adapter."""


def _values(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


WrittenStore = Annotated[StoreRef, BeforeValidator(_values)]
"""A store as plans have it: a mapping, or its path."""


def open_stores(data: Sequence[StoreRef]) -> tuple[StoreRef, ...]:
    """Fill in the name and the hash of every store; a hash ending distinguishes two stores of one name."""
    stores: list[StoreRef] = []
    for ref in data:
        folder = find_store(ref.path).resolve()
        store = Store(folder)
        if ref.hash and store.hash != ref.hash:
            raise UnimixerError(f"{folder} has content {store.hash}, the study began with {ref.hash}")
        name = slug(str(store.manifest.get("name") or folder.name))
        if any(other.name == name for other in stores):
            name = f"{name}-{store.hash[:4]}"
        stores.append(StoreRef(path=str(folder), name=ref.name or name, hash=store.hash))
    return tuple(stores)


def prepare_missing(data: Sequence[StoreRef], raw: Path | None = None) -> list[Path]:
    """Prepare the missing stores that have a source; return their folders.

    Args:
        data: stores, with ``source`` (and ``options``) where they can be prepared.
        raw: folder or file with the raw data.

    Raises:
        UnimixerError: if a source needs files and ``raw`` is None, if two missing stores need files, or if an existing
            store was made of something else.
    """
    with_source = [ref for ref in data if ref.source]
    missing = [ref for ref in with_source if not find_store(ref.path).exists()]
    for ref in with_source:
        if ref not in missing:
            _check_origin(ref)
    from_files = [ref for ref in missing if ref.source not in GENERATED]
    if from_files and raw is None:
        first = from_files[0]
        raise UnimixerError(
            f"{find_store(first.path)} does not exist; name the files of {first.source} that it is prepared from: "
            f"--raw FOLDER"
        )
    if len(from_files) > 1:
        names = " and ".join(ref.path for ref in from_files)
        raise UnimixerError(
            f"--raw is one folder, and {names} are both missing; prepare one with: unimixer data prepare"
        )
    folders = []
    for ref in missing:
        folder = find_store(ref.path)
        prepare(ref.source, folder, raw=None if ref.source in GENERATED else raw, **ref.options)
        folders.append(folder)
    return folders


def _check_origin(ref: StoreRef) -> None:
    """Raise if an existing store was made of another source, or with other options, than the plan names."""
    folder = find_store(ref.path)
    origin = Store(folder).manifest.get("origin") or {}
    for name, value in recorded(ref.source, ref.options).items():
        moved = name == "source" and ref.source not in ADAPTERS  # a schema file may have moved since
        if not moved and origin.get(name, value) != value:
            raise UnimixerError(
                f"{folder} was made with {name} {origin[name]}, and the study names {value}; "
                "remove the store, or name another path"
            )
