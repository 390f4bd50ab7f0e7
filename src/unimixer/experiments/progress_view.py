"""Show the progress of an experiment: bars on a terminal, one line per row in a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from unimixer.experiments.cases import Job
from unimixer.progress import SILENCE, duration, plain_console


class View(Protocol):
    """The receiver of the progress of an experiment."""

    def row(self, row: dict[str, Any], done: int, total: int, left: float | None) -> None:
        """Show a row that was computed or has failed; ``left`` are the remaining seconds."""

    def running(self, jobs: Sequence[Job], done: int, total: int, left: float | None) -> None:
        """Show the running jobs; called some times a second."""


class Silent:
    """A view that shows nothing."""

    def row(self, row: dict[str, Any], done: int, total: int, left: float | None) -> None:
        """Show nothing."""

    def running(self, jobs: Sequence[Job], done: int, total: int, left: float | None) -> None:
        """Show nothing."""


class Lines(Silent):
    """One line per row on standard error, and a line about the running rows after a while of silence."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._last = folder, time.monotonic()

    def row(self, row: dict[str, Any], done: int, total: int, left: float | None) -> None:
        """Print the result of a row."""
        self._say(f"[{done}/{total}] {line(row)}{remaining(left)}")

    def running(self, jobs: Sequence[Job], done: int, total: int, left: float | None) -> None:
        """Print the position of the running rows."""
        if time.monotonic() - self._last >= SILENCE:
            stands = [f"{job.key} {standing(self._folder, job)[1]}" for job in jobs]
            self._say(f"[{done}/{total}] under way: {'; '.join(stands) or 'nothing'}{remaining(left)}")

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bars:
    """A bar for the experiment and one for every running row, below the finished rows."""

    def __init__(self, folder: Path, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._folder = folder
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(24),
            TextColumn("{task.fields[note]}", markup=False),
            console=console, transient=True,
        )  # fmt: skip
        self._whole = self._progress.add_task("rows", total=None, note="")
        self._tasks: dict[str, Any] = {}
        self._read = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def row(self, row: dict[str, Any], done: int, total: int, left: float | None) -> None:
        """Print the row above the bars."""
        self._progress.console.print(f"[{done}/{total}] {line(row)}")

    def running(self, jobs: Sequence[Job], done: int, total: int, left: float | None) -> None:
        """Move the bars, from files that are read once a second."""
        if time.monotonic() - self._read < 1.0:
            return
        self._read = time.monotonic()
        note = f"{done}/{total}{remaining(left)}"
        self._progress.update(self._whole, total=total, completed=done, note=note)
        keys = [job.key for job in jobs]
        for key in [key for key in self._tasks if key not in keys]:
            self._progress.remove_task(self._tasks.pop(key))
        for job in jobs:
            if job.key not in self._tasks:
                total_steps = job.case.steps * job.case.stages
                self._tasks[job.key] = self._progress.add_task(job.key, total=total_steps, note="")
            step, note = standing(self._folder, job)
            self._progress.update(self._tasks[job.key], completed=step, note=note)


@contextmanager
def watching(folder: Path, *, quiet: bool = False) -> Iterator[View]:
    """Choose the view: bars on a terminal, lines otherwise, nothing if ``quiet``."""
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines(folder)
    else:
        with Bars(folder, plain_console(stderr=True)) as bars:
            yield bars


def standing(folder: Path, job: Job) -> tuple[int, str]:
    """Return the steps that a row has taken, as a number and in words."""
    step, speed = position(folder / "runs" / job.key)
    pace = f", {speed:,.0f} samples/s" if speed else ""
    return step, f"step {step:,} of {job.case.steps * job.case.stages:,}{pace}" if step else "starting"


def position(run: Path) -> tuple[int, float | None]:
    """Read the steps that a run has taken over its stages, and its last speed, from its log."""
    from unimixer.training.run import RunFolder
    from unimixer.training.train import WARM_UP

    steps, speed = 0, None
    for folder in (run / WARM_UP, run):
        path = folder / "metrics.jsonl"
        if not path.exists() or not (folder / "config.yaml").exists():
            continue
        lines = [entry for entry in RunFolder(folder).history() if entry["kind"] == "train"]
        if lines:
            steps, speed = steps + lines[-1]["step"], lines[-1]["samples_per_second"]
    return steps, speed


def line(row: dict[str, Any]) -> str:
    """Describe a row in one line."""
    if row["status"] != "ok":
        return f"{row['key']}  failed: {row['error']}"
    task = json.loads(row["tasks"])[0]
    users = row.get(f"test_{task}_uauc")
    numbers = f"{task} AUC {row[f'test_{task}_auc']:.4f}" + ("" if users is None else f"  UAUC {users:.4f}")
    return f"{row['key']}  test {numbers}  {duration(row['seconds'])}, {row['samples_per_second'] or 0:,.0f} samples/s"


def remaining(left: float | None) -> str:
    """Describe the remaining time, for the end of a line."""
    return "" if left is None else f", about {duration(left)} left"
