"""The prepared data of an experiment: named in the plan, prepared where missing, opened and identified by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from unimixer.api import prepare
from unimixer.data.dataset import Dataset, dataset_path
from unimixer.data.raw.adapters import ADAPTERS
from unimixer.data.raw.origin import recorded
from unimixer.errors import UnimixerError
from unimixer.experiments.models import slug
from unimixer.settings import Settings

GENERATED = ("synthetic",)
"""Sources that need no files."""


class DatasetRef(Settings):
    """Prepared data that an experiment reads."""

    path: str
    name: str = ""
    hash: str = ""
    source: str = ""
    """The adapter (or schema file) that prepares a missing dataset, see ``--raw``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that adapter."""


def _values(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


WrittenDataset = Annotated[DatasetRef, BeforeValidator(_values)]
"""A dataset as plans have it: a mapping, or its path."""


def open_datasets(data: Sequence[DatasetRef]) -> tuple[DatasetRef, ...]:
    """Fill in the name and the hash of every dataset; a hash ending distinguishes two datasets of one name."""
    datasets: list[DatasetRef] = []
    for ref in data:
        folder = dataset_path(ref.path).resolve()
        dataset = Dataset(folder)
        if ref.hash and dataset.hash != ref.hash:
            raise UnimixerError(
                f"{folder} has content {dataset.hash}, the study began with {ref.hash}; choose another --out"
            )
        same = next((other.path for other in datasets if other.hash == dataset.hash), None)
        if same is not None:
            raise UnimixerError(f"{folder} has the content of {same}: models would be trained twice; give it once")
        name = slug(str(dataset.manifest.get("name") or folder.name))
        if any(other.name == name for other in datasets):
            name = f"{name}-{dataset.hash[:4]}"
        datasets.append(DatasetRef(path=str(folder), name=ref.name or name, hash=dataset.hash))
    return tuple(datasets)


def prepare_missing(data: Sequence[DatasetRef], raw: Path | None = None) -> list[Path]:
    """Prepare the missing datasets that have a source; return their folders.

    Args:
        data: datasets, with ``source`` (and ``options``) where they can be prepared.
        raw: folder or file with the raw data.

    Raises:
        UnimixerError: if a source needs files and ``raw`` is None, if two missing datasets need files, or if a
            dataset that exists was made of something else.
    """
    with_source = [ref for ref in data if ref.source]
    missing = [ref for ref in with_source if not dataset_path(ref.path).exists()]
    for ref in with_source:
        if ref not in missing:
            _check_origin(ref)
    from_files = [ref for ref in missing if ref.source not in GENERATED]
    if from_files and raw is None:
        first = from_files[0]
        raise UnimixerError(
            f"{dataset_path(first.path)} does not exist; name the files of {first.source} that it is prepared from: "
            f"--raw FOLDER"
        )
    if len(from_files) > 1:
        names = " and ".join(ref.path for ref in from_files)
        raise UnimixerError(
            f"--raw is one folder, and {names} are both missing; prepare one with: unimixer data prepare"
        )
    folders = []
    for ref in missing:
        folder = dataset_path(ref.path)
        prepare(ref.source, folder, raw=None if ref.source in GENERATED else raw, **ref.options)
        folders.append(folder)
    return folders


def _check_origin(ref: DatasetRef) -> None:
    """Raise if an existing dataset was made of another source, or with other options, than the plan names."""
    folder = dataset_path(ref.path)
    origin = Dataset(folder).manifest.get("origin") or {}
    for name, value in recorded(ref.source, ref.options).items():
        moved = name == "source" and ref.source not in ADAPTERS  # a schema file may have moved since
        if not moved and origin.get(name, value) != value:
            raise UnimixerError(
                f"{folder} was made with {name} {origin[name]}, and the study names {value}; "
                "remove the dataset, or name another path"
            )
