"""The interface of executors: give tasks to workers, hear their reports, take their replies."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

Task = TypeVar("Task")
Report = Callable[[Any], None]
Work = Callable[[Any, Report], Any]
"""A function of a module that workers call with the message of a task and a function that sends reports."""


@dataclass(frozen=True)
class Reply(Generic[Task]):
    """The end of a task."""

    task: Task
    value: Any = None
    """The return value of the work; None where the worker died."""
    died: str | None = None
    """How the worker ended before it replied, for example ``was killed by SIGKILL``."""


class Running(NamedTuple):
    """A task and the worker that does it."""

    worker: Any
    task: Any
    on_report: Report | None

    def hear(self, reports: Iterable[Any]) -> None:
        """Pass reports of the worker on."""
        for report in reports:
            if self.on_report is not None:
                self.on_report(report)


class Executor(ABC, Generic[Task]):
    """Workers that do one task at a time each; they start when first needed and again where one died.

    Args:
        work: what a worker does with the message of a task.
        workers: workers at most.
        threads: threads of each.
        log: file for what workers print; None lets them print where this process does.
    """

    def __init__(self, work: Work, *, workers: int, threads: int, log: Path | None) -> None:
        self.work, self.workers, self.threads, self.log = work, workers, threads, log
        self._idle: list[Any] = []
        self._busy: dict[Any, Running] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in [*self._idle, *(running.worker for running in self._busy.values())]:
            self._end(worker)
        self._idle, self._busy = [], {}

    @property
    def running(self) -> list[Task]:
        """Tasks without a reply."""
        return [running.task for running in self._busy.values()]

    @property
    def free(self) -> int:
        """Number of tasks that can start now."""
        return self.workers - len(self._busy)

    def submit(self, task: Task, message: Any, on_report: Report | None = None) -> None:
        """Start a task; :meth:`wait` passes the reports of its worker to ``on_report``."""
        worker, handle = self._send(pickle.dumps(message, protocol=5))
        self._busy[handle] = Running(worker, task, on_report)

    @abstractmethod
    def wait(self, timeout: float) -> Reply[Task] | None:
        """Return the next reply, or None if there is none within ``timeout`` seconds."""

    @abstractmethod
    def stop(self) -> None:
        """Send SIGTERM to the processes of running tasks, which then write a checkpoint and end."""

    @abstractmethod
    def _send(self, message: bytes) -> tuple[Any, Any]:
        """Start a task; return its worker and the handle of its reply."""

    @abstractmethod
    def _end(self, worker: Any) -> Any:
        """End a worker at once."""


class MakeExecutor(Protocol):
    """Makes an executor; :class:`~unimixer.workers.local.LocalExecutor` does for this machine."""

    def __call__(self, work: Work, *, workers: int, threads: int, log: Path | None) -> Executor[Any]: ...
