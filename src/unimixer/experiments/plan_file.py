"""The file that makes a folder an experiment: its plan, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypeVar

from unimixer.errors import UnimixerError
from unimixer.io import kind_of
from unimixer.settings import Settings, load_yaml, parse

SPEEDS, LOG = "speeds.json", "workers.log"
"""Files of the measured speeds and of the worker processes, which stand in the folder before the plan does."""


class PlanFile(Settings):
    """Base of the plans that a folder keeps."""

    file: ClassVar[str]
    """Its name in the folder."""
    noun: ClassVar[str]
    command: ClassVar[str]
    """The verb that begins and continues an experiment."""


AnyPlan = TypeVar("AnyPlan", bound=PlanFile)


def is_begun(folder: Path, kind: type[PlanFile]) -> bool:
    """Return whether a folder holds an experiment of this kind."""
    return (folder / kind.file).exists()


def check_folder(folder: Path, kind: type[PlanFile]) -> None:
    """Raise if an experiment cannot begin in a folder, because it is a file or has files of something else."""
    if is_begun(folder, kind) or not folder.exists():
        return
    if (actual := kind_of(folder)) is None:
        others = (path.name for path in folder.iterdir() if path.name not in (SPEEDS, LOG))
        names = sorted(name for name in others if not name.startswith("."))
        actual = f"not empty (it holds {names[0]!r})" if names else None
    if actual is not None:
        raise UnimixerError(f"{folder} is {actual}, and a {kind.noun} needs a folder of its own; choose another --out")


def read_plan(folder: Path, kind: type[AnyPlan]) -> AnyPlan:
    """Read the plan of an experiment's folder."""
    path = folder / kind.file
    if not path.exists():
        raise UnimixerError(
            f"{folder} is not a {kind.noun} (no {kind.file}); begin one with: {kind.command} --out {folder}"
        )
    return parse(kind, load_yaml(path), where=str(path))
