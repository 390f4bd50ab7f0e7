"""The run folder: everything that made a model, everything that it measured, everything needed to use it again."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unimixer.data.store import Store
from unimixer.data.transform import Transform
from unimixer.errors import UnimixerError, first_line
from unimixer.files import atomic_folder, link_or_copy, read_errors, write_text
from unimixer.settings import dump_yaml, load_yaml, parse
from unimixer.training.config import Recipe

_PACKAGES = ("unimixer", "torch", "numpy", "pyarrow", "polars", "safetensors")

LOG = "train.log"
"""What people were told while a run was trained, with the time of every line."""


class RunFolder:
    """One training run on disk.

    ``config.yaml`` the resolved recipe · ``environment.json`` versions, commit, seed, data hash · ``transform/`` what
    turns raw rows into batches · ``metrics.jsonl`` one line a log or evaluation · ``train.log`` what people were told ·
    ``checkpoints/`` to resume from · ``best/`` the weights that validated best · ``result.json`` their metrics ·
    ``events.*`` for TensorBoard.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        with read_errors(self.folder):
            found = (self.folder / "config.yaml").exists()
        if not found:
            raise UnimixerError(f"{self.folder} is not a run folder (no config.yaml); make one with: unimixer train")

    @classmethod
    def create(
        cls, folder: Path | None, recipe: Recipe, store: Store, *, warm_start: RunFolder | None = None
    ) -> RunFolder:
        """Make the folder of a new run; an existing one is never written into.

        Args:
            folder: the folder (default: below ``$UNIMIXER_RUNS`` or ``runs``, named after recipe, time and seed).
            recipe: resolved.
            store: what it is trained on.
            warm_start: run whose best weights it starts from.
        """
        if folder is not None:
            if folder.exists():
                raise UnimixerError(
                    f"{folder} exists; choose another --run, "
                    f"or continue it with: unimixer train --resume {shlex.quote(str(folder))}"
                )
            return cls._write(folder, recipe, store, warm_start)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        base = runs_folder() / recipe.name / f"{stamp}-seed{recipe.training.seed}"
        for number in itertools.count(1):
            folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
            if folder.exists():
                continue
            try:
                return cls._write(folder, recipe, store, warm_start)
            except (UnimixerError, OSError):
                if not folder.exists():  # otherwise another process took the name meanwhile
                    raise
        raise AssertionError("there is always a next number")

    @classmethod
    def _write(cls, folder: Path, recipe: Recipe, store: Store, warm_start: RunFolder | None) -> RunFolder:
        # config.yaml makes the folder a run, so the rename that gives the folder its name comes after all files
        with atomic_folder(folder) as temporary:
            (temporary / "config.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
            _write_json(temporary / "environment.json", environment(recipe, store))
            if warm_start is not None:
                _write_json(temporary / "warm-start.json", {"run": str(warm_start.folder.resolve())})
            (temporary / "checkpoints").mkdir()
            link_or_copy(store.folder / "transform", temporary / "transform")
        return cls(folder)

    @property
    def outer(self) -> Path:
        """The folder of the run that this one is a stage of, or its own."""
        parent = self.folder.resolve().parent
        return self.folder.parent if (parent / "config.yaml").exists() else self.folder

    @property
    def best_weights(self) -> Path:
        """Where the weights that validated best are."""
        return self.folder / "best" / "model.safetensors"

    @property
    def warm_start(self) -> Path | None:
        """The run whose best weights this one started from."""
        path = self.folder / "warm-start.json"
        return Path(_read_json(path, "run")["run"]) if path.exists() else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run; the lock ends with the process, whatever ends it."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnimixerError(f"{self.folder} is being trained by another process; wait for it") from None
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
        values = _read_json(self.folder / "environment.json", "commit", "data", "versions")
        if not isinstance(values["data"], dict) or "hash" not in values["data"]:
            raise _of_another_version(self.folder / "environment.json", "data.hash")
        return values

    @property
    def transform(self) -> Transform:
        """The transform that the model was trained with."""
        with read_errors(self.folder / "transform"):
            return Transform.load(self.folder / "transform")

    @property
    def result(self) -> dict[str, Any] | None:
        """Metrics of the finished run, None before it has finished."""
        path = self.folder / "result.json"
        return _read_json(path) if path.exists() else None

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All logged lines; a line that a killed process left incomplete is passed over."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drop logged lines of what a resumed run does again: later steps, and the final test."""
        kept = [line for line in self.history() if line["step"] <= step and line["kind"] != "test"]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a small JSON file atomically."""
        write_text(self.folder / name, json.dumps(dict(values), indent=1) + "\n")


def runs_folder() -> Path:
    """Where runs are made and looked for: ``$UNIMIXER_RUNS``, or ``runs``."""
    return Path(os.environ.get("UNIMIXER_RUNS", "runs"))


def environment(recipe: Recipe, store: Store) -> dict[str, Any]:
    """What a reader needs to judge whether two runs are comparable."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.training.seed,
        "data": {"store": str(store.folder), "name": store.manifest.get("name"), "hash": store.hash},
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": recipe.training.threads or torch.get_num_threads(),
        "device": recipe.training.device,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """Commit of the source tree that this package is imported from, with ``+changes`` where it was edited."""
    here = Path(__file__).resolve().parent
    try:
        head = _git("rev-parse", "HEAD", cwd=here)
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no", cwd=here) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The values of a file of a run, which must have these keys."""
    try:
        with read_errors(path):
            values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        if isinstance(error, UnimixerError):
            raise
        raise UnimixerError(f"{path}: damaged ({first_line(error)}); train the run again") from None
    if not isinstance(values, dict):
        raise UnimixerError(f"{path}: damaged (not an object); train the run again")
    for key in keys:
        if key not in values:
            raise _of_another_version(path, key)
    return values


def _of_another_version(path: Path, key: str) -> UnimixerError:
    return UnimixerError(f"{path}: has no {key!r}: another version wrote it, or it was changed; train the run again")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=1) + "\n", encoding="utf-8")


def _git(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()
