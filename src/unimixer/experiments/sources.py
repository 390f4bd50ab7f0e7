"""From raw files to the stores of a study, where they are not there yet."""

from __future__ import annotations

from pathlib import Path

from unimixer.api import prepare
from unimixer.data.dataset import Store, find_store
from unimixer.data.raw.adapters import ADAPTERS
from unimixer.data.raw.origin import recorded
from unimixer.errors import UnimixerError
from unimixer.experiments.study_config import StoreRef, Study

GENERATED = ("synthetic",)
"""Data sets that need no files."""


def prepare_missing(study: Study, raw: Path | None = None) -> list[Path]:
    """Prepare the stores that a study names a source for and that do not exist; return their folders.

    Args:
        study: with ``source`` (and ``options``) at its data.
        raw: folder, or file, with the raw data.

    Raises:
        UnimixerError: if files are needed and none were named, more than one store is to be made of the same files, or
            a store is there that was made of something else.
    """
    named = [data for data in study.data if data.source]
    missing = [data for data in named if not find_store(data.path).exists()]
    for data in named:
        if data not in missing:
            _check_made_of(data)
    from_files = [data for data in missing if data.source not in GENERATED]
    if from_files and raw is None:
        first = from_files[0]
        raise UnimixerError(
            f"{find_store(first.path)} does not exist; name the files of {first.source} that it is prepared from: "
            f"--raw FOLDER"
        )
    if len(from_files) > 1:
        names = " and ".join(data.path for data in from_files)
        raise UnimixerError(
            f"--raw is one folder, and {names} are both missing; prepare one with: unimixer data prepare"
        )
    made = []
    for data in missing:
        folder = find_store(data.path)
        prepare(data.source, folder, raw=None if data.source in GENERATED else raw, **data.options)
        made.append(folder)
    return made


def _check_made_of(data: StoreRef) -> None:
    """Raise where a store that is there was made of another source, or with other options, than the study names."""
    folder = find_store(data.path)
    origin = Store(folder).manifest.get("origin") or {}
    for name, value in recorded(data.source, data.options).items():
        moved = name == "source" and data.source not in ADAPTERS  # a schema file may stand elsewhere by now
        if not moved and origin.get(name, value) != value:
            raise UnimixerError(
                f"{folder} was made with {name} {origin[name]}, and the study names {value}; "
                "remove the store, or name another path"
            )
