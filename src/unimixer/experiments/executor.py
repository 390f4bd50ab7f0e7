"""The engine: jobs in, rows out; resumable, in several processes, past failing and killed ones.

It knows nothing of models that are compared: a sweep over sizes gives it other jobs.
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
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Job, unique
from unimixer.experiments.progress_view import Silent, View
from unimixer.experiments.results import FAILED, OK, Row, read_row, write_row
from unimixer.training.checkpoint import remove_leftovers
from unimixer.training.signals import stop_signals
from unimixer.workers.local import Executor, MakeExecutor, Pool, Reply

STOP_SECONDS = 120.0
"""Longest wait for checkpoints after a request to stop."""
TICK = 0.2


@dataclass
class Outcome:
    """What a call of the engine did."""

    computed: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    found: int = 0
    """Rows that were there already."""


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 1,
    threads: int = 1,
    keep_runs: bool = False,
    follow: Callable[[Row], Sequence[Job]] = lambda row: (),
    total: int | None = None,
    expected: Mapping[str, float] | None = None,
    view: View | None = None,
    resume_with: str | None = None,
    executor: MakeExecutor = Pool,
) -> Outcome:
    """Compute the rows of some jobs that a folder does not have yet.

    Args:
        jobs: what to compute; a job whose row is there is not computed again, a failed one is.
        folder: of the study; two calls at once are refused.
        workers: processes side by side.
        threads: threads of each.
        keep_runs: keep weights and checkpoints of finished rows.
        follow: further jobs that a row, new or found, makes possible.
        total: rows in the end, with all that follow, for the view.
        expected: seconds of a job by its key, for the time left.
        view: hears of progress.
        resume_with: command that continues, for the message when it is stopped.
        executor: makes what runs the jobs: processes on this machine, unless it is told otherwise.

    Raises:
        StoppedError: by Ctrl-C or SIGTERM; what is done is kept, and runs have checkpoints.
    """
    with study_lock(folder):
        remove_leftovers(folder)
        engine = _Engine(folder, keep_runs, follow, total, expected or {}, view or Silent(), workers)
        log = folder / "workers.log"
        with stop_signals() as stopped, executor(workers=workers, threads=threads, log=log) as pool:
            engine.add(jobs)
            while engine.waiting or pool.running:
                while engine.waiting and pool.free and not stopped.is_set():
                    job = engine.waiting.pop(0)
                    engine.started[job.key] = time.monotonic()
                    pool.submit(job, _message(job, folder, workers, threads))
                reply = pool.wait(TICK)
                if reply is not None:
                    engine.take(reply)
                if stopped.is_set():
                    _drain(pool, engine)
                    raise stopped.error(engine.stopped(resume_with))
                engine.tick(pool.running)
        return engine.outcome


def _drain(pool: Executor[Job], engine: _Engine) -> None:
    """Let running rows write their checkpoints; a row that is just done counts."""
    pool.stop()
    waited = 0.0
    while pool.running and waited < STOP_SECONDS:
        reply = pool.wait(TICK)
        if reply is None:
            waited += TICK
        elif "row" in reply.values:
            engine.take(reply)


def _message(job: Job, folder: Path, workers: int, threads: int) -> dict[str, Any]:
    recipe = job.recipe.model_dump(mode="json")
    recipe["training"]["threads"] = threads
    return {
        "do": "train",
        "folder": str(folder),
        "recipe": recipe,
        "columns": job.columns(),
        "processes": workers,
        "machine": cpu_model(),
    }


class _Engine:
    """What is waiting, done and failed."""

    def __init__(
        self,
        folder: Path,
        keep_runs: bool,
        follow: Callable[[Row], Sequence[Job]],
        total: int | None,
        expected: Mapping[str, float],
        view: View,
        workers: int,
    ) -> None:
        self.folder, self.keep_runs, self.follow, self.view = folder, keep_runs, follow, view
        self.waiting: list[Job] = []
        self.outcome = Outcome()
        self.started: dict[str, float] = {}
        self._running: list[str] = []
        self._known: set[str] = set()
        self._total, self._expected, self._workers = total, expected, workers
        self._seconds = self._promised = 0.0
        """Of the rows computed here: taken and expected."""

    def add(self, jobs: Sequence[Job], *, first: bool = False) -> None:
        """Take in jobs, before all others if ``first``; one whose row is there leads to what follows it."""
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
            self.outcome.found += 1
            self._tidy(job.key)
            self._sort_in(self.follow(row))

    def take(self, reply: Reply[Job]) -> None:
        """Note a finished or failed row."""
        job, row = reply.task, reply.values.get("row")
        self._running = [key for key in self._running if key != job.key]
        if row is None:
            row = {**job.columns(), "status": FAILED, "error": reply.values["failed"]}
            write_row(self.folder, row)
            self.outcome.failed.append(row)
            if not reply.died:  # what failed by itself starts anew, what was killed goes on from its checkpoint
                shutil.rmtree(self.folder / "runs" / job.key, ignore_errors=True)
        else:
            self.outcome.computed.append(row)
            taken = time.monotonic() - self.started[job.key]
            self._seconds += taken
            self._promised += self._expected.get(job.key, taken)
            self._tidy(job.key)
        self.view.row(row, self.done, self.total, self.left)
        self.add(self.follow(row), first=True)  # one model after the other, so that a stopped study has whole ones

    def tick(self, running: Sequence[Job]) -> None:
        """Tell the view where things stand."""
        self._running = [job.key for job in running]
        self.view.running(running, self.done, self.total, self.left)

    @property
    def done(self) -> int:
        """Rows that are there, failed ones of this call included."""
        return self.outcome.found + len(self.outcome.computed) + len(self.outcome.failed)

    @property
    def total(self) -> int:
        """Rows in the end."""
        return max(self._total or 0, len(self._known))

    @property
    def left(self) -> float | None:
        """Seconds to go: what is expected of an average row, put right by what rows took so far."""
        if not self._expected or not self.outcome.computed:
            return None
        mean = sum(self._expected.values()) / len(self._expected)
        slower = self._seconds / self._promised if self._promised else 1.0
        named = sum(self._expected.get(job.key, mean) for job in self.waiting)
        unnamed = max(0, self.total - self.done - len(self.waiting)) * mean
        now = time.monotonic()
        under_way = sum(min(now - self.started[key], self._expected.get(key, mean) * slower) for key in self._running)
        return max(0.0, (named + unnamed) * slower - under_way) / self._workers

    def stopped(self, resume_with: str | None) -> str:
        """The sentence for a study that was stopped."""
        how = "" if resume_with is None else f"; continue with: {resume_with}"
        return f"stopped with {self.done - len(self.outcome.failed)} of {self.total} rows done{how}"

    def _tidy(self, key: str) -> None:
        """Remove what a finished row no longer needs: weights, checkpoints, a copy of the transform."""
        run = self.folder / "runs" / key
        if self.keep_runs or not run.exists():
            return
        for name in ("checkpoints", "best", "transform"):
            for folder in list(run.rglob(name)):
                shutil.rmtree(folder, ignore_errors=True)
        for file in list(run.rglob("events.*")):
            file.unlink(missing_ok=True)


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Keep a second call out of a study's folder; the lock ends with the process, whatever ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnimixerError(f"{folder} is being computed by another process; wait for it") from None
        yield
