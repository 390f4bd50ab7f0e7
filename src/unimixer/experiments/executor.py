"""Run jobs: jobs in, rows out; resumable, in several processes, with failed and killed ones recorded.

A machine is the only way in which experiments start worker processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimixer.environment import cpu_model
from unimixer.experiments.cases import Job, unique
from unimixer.experiments.drive import TICK, drive
from unimixer.experiments.plan_file import LOG
from unimixer.experiments.progress_view import Silent, View
from unimixer.experiments.results import FAILED, OK, Row, read_row, write_row
from unimixer.experiments.worker import failure, handle, remove_weights
from unimixer.io import file_lock
from unimixer.training.checkpoint import remove_leftovers
from unimixer.training.signals import stop_signals
from unimixer.workers.executor import Executor, Reply, Work
from unimixer.workers.ray import executor_on


@dataclass(frozen=True)
class Machine:
    """The processes that run jobs; rows do not depend on them but for their speed.

    Args:
        workers: processes side by side.
        threads: threads of each process.
        ray: Ray cluster to run on, see :func:`~unimixer.workers.ray.executor_on` (default: this machine).

    Raises:
        MissingExtraError: Ray is not installed.
    """

    workers: int = 1
    threads: int = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        """Check that Ray is installed if it is asked for."""
        executor_on(self.ray)

    def options(self) -> str:
        """Return the options as the command line has them."""
        ray = "" if self.ray is None else f" --ray {self.ray}"
        return f" --jobs {self.workers} --threads {self.threads}{ray}"

    def executor(self, log: Path, work: Work = handle) -> Executor[Any]:
        """Make the executor that does some work; its processes print into a log file."""
        return executor_on(self.ray)(work, workers=self.workers, threads=self.threads, log=log)


@dataclass(frozen=True)
class Schedule:
    """What is known of an experiment beyond its first jobs.

    Args:
        follow: further jobs that a row, computed or found, makes possible.
        total: rows in the end, with all that follow.
        seconds: expected seconds of a job, for the time left.
        mean_seconds: expected seconds of a job that is not known yet.
        resume_with: command that continues, for the message of a stopped experiment.
    """

    follow: Callable[[Row], Sequence[Job]] = lambda row: ()
    total: int = 0
    seconds: Callable[[Job], float] | None = None
    mean_seconds: float = 0.0
    resume_with: str | None = None


@dataclass
class Outcome:
    """The rows of one call."""

    computed: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    existing: int = 0
    """Number of rows that the folder had already."""


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    machine: Machine | None = None,
    schedule: Schedule | None = None,
    *,
    keep_runs: bool = False,
    view: View | None = None,
) -> Outcome:
    """Compute the rows of some jobs that a folder does not have yet; a failed row is computed again.

    Args:
        jobs: runs to train.
        folder: folder of the rows; two calls at once are refused.
        machine: processes and threads (default: one of each).
        schedule: jobs that follow, and the expected times.
        keep_runs: keep weights and checkpoints of finished rows.
        view: shows the progress.

    Raises:
        StoppedError: by Ctrl-C or SIGTERM; finished rows are kept, and runs have checkpoints.
    """
    machine = machine or Machine()
    with study_lock(folder):
        remove_leftovers(folder)
        engine = _Engine(folder, machine, schedule or Schedule(), view or Silent(), keep_runs=keep_runs)
        engine.add(jobs)
        drive(engine, machine.executor(folder / LOG))
        return engine.outcome


def measure(
    recipes: Mapping[str, Mapping[str, Any]], machine: Machine, log: Path, view: Callable[[Reply[str]], None]
) -> None:
    """Measure the speed of some recipes, side by side as their rows will run; ``view`` takes every reply."""
    waiting = list(recipes)
    with machine.executor(log) as pool, stop_signals() as stopped:
        while waiting or pool.running:
            if stopped.is_set():
                raise stopped.error("stopped before any row was started; the same call begins again")
            while waiting and pool.free:
                key = waiting.pop(0)
                pool.submit(key, {"do": "measure", "recipe": recipes[key]})
            reply = pool.wait(TICK)
            if reply is not None:
                view(reply)


def recipe_values(job: Job, machine: Machine) -> dict[str, Any]:
    """Return the recipe of a job as plain values, with the threads of its process."""
    recipe = job.recipe.model_dump(mode="json")
    recipe["training"]["threads"] = machine.threads
    return recipe


class _Engine:
    """The jobs of one call: waiting, running, done and failed."""

    def __init__(self, folder: Path, machine: Machine, schedule: Schedule, view: View, *, keep_runs: bool) -> None:
        self.folder, self.machine, self.keep_runs, self.schedule, self.view = folder, machine, keep_runs, schedule, view
        self.waiting: list[Job] = []
        self.outcome = Outcome()
        self.started: dict[str, float] = {}
        self._running: list[Job] = []
        self._known: set[str] = set()
        self._seconds = self._promised = 0.0
        """Seconds that the rows computed here took, and that they were expected to take."""

    def add(self, jobs: Sequence[Job], *, first: bool = False) -> None:
        """Queue jobs, before all others if ``first``; a job whose row exists makes way for those that follow it."""
        waiting, self.waiting = self.waiting, []
        self._sort_in(jobs)
        self.waiting = [*self.waiting, *waiting] if first else [*waiting, *self.waiting]

    def _sort_in(self, jobs: Sequence[Job]) -> None:
        for job in unique(jobs):
            if job.key in self._known:
                continue
            self._known.add(job.key)
            row = read_row(self.folder, job.key)
            if row is None or row["status"] != OK:
                self.waiting.append(job)
                continue
            self.outcome.existing += 1
            self._remove_intermediates(job.key)
            self._sort_in(self.schedule.follow(row))

    def next(self) -> Job | None:
        """Return the next job of the queue."""
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self.started[job.key] = time.monotonic()
        return job

    def message(self, task: Job) -> dict[str, Any]:
        """Return the message of a job to its worker."""
        return {
            "do": "train",
            "folder": str(self.folder),
            "recipe": recipe_values(task, self.machine),
            "columns": task.columns(),
            "processes": self.machine.workers,
            "machine": cpu_model(),
        }

    def take(self, reply: Reply[Job]) -> None:
        """Record a finished or failed row."""
        job, error = reply.task, failure(reply)
        self._running = [running for running in self._running if running.key != job.key]
        if error is not None:
            row = {**job.columns(), "status": FAILED, "error": error}
            write_row(self.folder, row)
            self.outcome.failed.append(row)
            if not reply.died:  # a run that failed by itself starts anew, a killed one goes on from its checkpoint
                shutil.rmtree(self.folder / "runs" / job.key, ignore_errors=True)
        else:
            row = reply.value["row"]
            self.outcome.computed.append(row)
            taken = time.monotonic() - self.started[job.key]
            self._seconds += taken
            self._promised += taken if self.schedule.seconds is None else self.schedule.seconds(job)
            self._remove_intermediates(job.key)
        self.view.row(row, self.done, self.total, self.left)
        self.add(self.schedule.follow(row), first=True)  # one model after the other: a stopped study has whole ones

    def tick(self, running: Sequence[Job]) -> None:
        """Show the progress of the running jobs."""
        self._running = list(running)
        self.view.running(running, self.done, self.total, self.left)

    @property
    def done(self) -> int:
        """Number of rows so far, failed ones of this call included."""
        return self.outcome.existing + len(self.outcome.computed) + len(self.outcome.failed)

    @property
    def total(self) -> int:
        """Number of rows in the end."""
        return max(self.schedule.total, len(self._known))

    @property
    def left(self) -> float | None:
        """Estimated remaining seconds: expected time per row, scaled by the measured-to-expected ratio so far."""
        expected = self.schedule.seconds
        if expected is None or not self.outcome.computed:
            return None
        slowdown = self._seconds / self._promised if self._promised else 1.0
        waiting = sum(expected(job) for job in self.waiting)
        unknown = max(0, self.total - self.done - len(self.waiting)) * self.schedule.mean_seconds
        now = time.monotonic()
        spent = sum(min(now - self.started[job.key], expected(job) * slowdown) for job in self._running)
        return max(0.0, (waiting + unknown) * slowdown - spent) / self.machine.workers

    def stopped(self) -> str:
        """Return the message of a stopped experiment."""
        how = "" if self.schedule.resume_with is None else f"; continue with: {self.schedule.resume_with}"
        return f"stopped with {self.done - len(self.outcome.failed)} of {self.total} rows done{how}"

    def _remove_intermediates(self, key: str) -> None:
        """Remove the files that a finished row no longer needs: weights, checkpoints, a copy of the transform."""
        run = self.folder / "runs" / key
        if not self.keep_runs and run.exists():
            remove_weights(run)


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Lock the folder of an experiment against a second call; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", f"{folder} is being computed by another process; wait for it"):
        yield
