"""The run folder: how a model was trained, its measurements, and the files needed to use it again."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from unimixer.data.coverage import expected_shares
from unimixer.data.dataset import Dataset, open_dataset
from unimixer.data.encoding.transform import Transform
from unimixer.environment import commit, versions
from unimixer.errors import UnimixerError
from unimixer.io import (
    RUN,
    atomic_folder,
    check_kind,
    disk_errors,
    file_lock,
    kind_of,
    lacking,
    link_or_copy,
    read_errors,
    read_json,
    write_text,
)
from unimixer.settings import dump_yaml, load_yaml, parse
from unimixer.training.config import Recipe

_AGAIN = "restore the file from a copy of the run, or train it again"

LOG = "train.log"
"""The lines printed while a run was trained, with the time of each."""


class RunFolder:
    """One training run on disk.

    ``config.yaml`` the resolved recipe · ``environment.json`` versions, commit, seed, data hash · ``transform/`` the
    transform from raw rows to batches · ``metrics.jsonl`` one line per log or evaluation · ``train.log`` the printed
    lines · ``checkpoints/`` to resume from · ``best/`` the weights that validated best · ``result.json`` their metrics
    · ``warm-start.json`` the run that it started from and the rows kept · ``events.*`` for TensorBoard.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        check_kind(self.folder, RUN, marker="config.yaml", make="unimixer train")

    @classmethod
    def create(
        cls,
        folder: Path | None,
        recipe: Recipe,
        dataset: Dataset,
        *,
        warm_start: Mapping[str, Any] | None = None,
        fill: Callable[[Path], None] | None = None,
    ) -> RunFolder:
        """Make the folder of a new run; never write into an existing one.

        Args:
            folder: the folder (default: below ``$UNIMIXER_RUNS`` or ``runs``, named after recipe, time and seed).
            recipe: resolved.
            dataset: the data to train on.
            warm_start: facts on the start from another run: its folder (``run``), the checksum of its ``weights``, and
                the numbers of rows kept.
            fill: writes more files into the folder before it gets its name.
        """
        if folder is not None:
            if folder.exists():
                resume = f", or continue it with: unimixer train --resume {shlex.quote(str(folder))}"
                raise UnimixerError(f"{folder} exists; choose another --run{resume if kind_of(folder) == RUN else ''}")
            return cls._write(folder, recipe, dataset, warm_start, fill)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        base = runs_folder() / recipe.name / f"{stamp}-seed{recipe.training.seed}"
        for number in itertools.count(1):
            folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
            if folder.exists():
                continue
            try:
                return cls._write(folder, recipe, dataset, warm_start, fill)
            except (UnimixerError, OSError):
                if not folder.exists():  # otherwise another process took the name meanwhile
                    raise
        raise AssertionError("there is always a next number")

    @classmethod
    def _write(
        cls,
        folder: Path,
        recipe: Recipe,
        dataset: Dataset,
        warm_start: Mapping[str, Any] | None,
        fill: Callable[[Path], None] | None,
    ) -> RunFolder:
        # config.yaml makes the folder a run, so the rename that gives the folder its name comes after all files
        with atomic_folder(folder) as temporary:
            (temporary / "config.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
            _write_json(temporary / "environment.json", environment(recipe, dataset))
            if warm_start is not None:
                _write_json(temporary / "warm-start.json", warm_start)
            (temporary / "checkpoints").mkdir()
            link_or_copy(dataset.transform_folder, temporary / "transform")
            if fill is not None:
                fill(temporary)
        return cls(folder)

    @property
    def outer(self) -> Path:
        """The folder of the run that has this one as its first stage; otherwise the folder itself."""
        parent = self.folder.resolve().parent
        return self.folder.parent if (parent / "config.yaml").exists() else self.folder

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def best_weights(self) -> Path:
        """The file of the weights that validated best."""
        return self.folder / "best" / "model.safetensors"

    @property
    def sharded_best(self) -> Path:
        """The folder that several processes keep the best weights in until the run finishes."""
        return self.folder / "best-sharded"

    @property
    def warm_start(self) -> Path | None:
        """The run whose best weights were the start of this one."""
        facts = self.warm_start_facts
        return Path(facts["run"]) if facts else None

    @property
    def warm_start_facts(self) -> dict[str, Any]:
        """The content of ``warm-start.json``; empty if the run started from fresh weights."""
        path = self.folder / "warm-start.json"
        return read_json(path, "run", way_out=_AGAIN) if path.exists() else {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run; the lock ends with the process, also if it is killed."""
        with file_lock(self.folder / ".lock", f"{self.folder} is being trained by another process; wait for it"):
            yield

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        path = self.folder / "config.yaml"
        with read_errors(path):
            return parse(Recipe, load_yaml(path), where=str(path))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, commit, seed and the hash of the data."""
        path = self.folder / "environment.json"
        values = read_json(path, "commit", "data", "versions", way_out=_AGAIN)
        if not isinstance(values["data"], dict) or "hash" not in values["data"]:
            raise lacking(path, "data.hash", _AGAIN)
        return values

    @property
    def transform(self) -> Transform:
        """The transform that the model was trained with."""
        with read_errors(self.folder / "transform"):
            return Transform.load(self.folder / "transform")

    @property
    def result(self) -> dict[str, Any] | None:
        """The metrics of a finished run; None before it has finished."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        resume = f"remove it, and unimixer train --resume {shlex.quote(str(self.outer))} measures it again"
        return read_json(path, way_out=resume)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        with disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Read all logged lines; skip a line that a killed process left incomplete."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drop the logged lines that a resumed run writes again: later steps, and the final test."""
        kept = [line for line in self.history() if line["step"] <= step and line["kind"] != "test"]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a small JSON file atomically."""
        write_text(self.folder / name, json.dumps(dict(values), indent=1) + "\n")


def runs_folder() -> Path:
    """Return the folder of runs: ``$UNIMIXER_RUNS``, or ``runs``."""
    return Path(os.environ.get("UNIMIXER_RUNS", "runs"))


def environment(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Describe a run well enough to judge whether two runs are comparable."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.training.seed,
        "data": {"folder": str(dataset.folder), "name": dataset.manifest.get("name"), "hash": dataset.hash}
        | {"origin": dataset.origin, "coverage": expected_shares(dataset)},
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": recipe.training.threads or torch.get_num_threads(),
        "device": recipe.training.device,
        "versions": versions(),
    }


def dataset_of(run: RunFolder, folder: Path | None = None) -> Dataset:
    """Open the dataset that a run was trained on.

    Args:
        run: the run.
        folder: the folder of the dataset, if it moved since the training.

    Raises:
        UnimixerError: if the dataset has other content.
    """
    return _dataset_as_it_was(run, folder, "the run was trained on {}; evaluate other data as raw rows, with --input")


def dataset_to_resume(run: RunFolder, folder: Path | None = None) -> Dataset:
    """Open the dataset that a run began with, see :func:`dataset_of`."""
    return _dataset_as_it_was(run, folder, "the run began with {}; resume on the same data")


def _dataset_as_it_was(run: RunFolder, folder: Path | None, reason: str) -> Dataset:
    """Open the dataset of a run, without the days that were appended since."""
    dataset = open_dataset(str(folder or run.recipe.dataset))
    expected = run.environment["data"]["hash"]
    if dataset.hash == expected:
        return dataset
    if all(day["hash"] != expected for day in dataset.days):
        raise UnimixerError(f"{dataset.folder} has content {dataset.hash}, {reason.format(expected)}")
    return open_dataset(dataset.folder, at=expected, transform=run.folder / "transform")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=1) + "\n", encoding="utf-8")
