"""Worker processes: tasks out, replies in, and the news of a process that died."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True)
class Reply(Generic[Task]):
    """What came of a task."""

    task: Task
    values: dict[str, Any]
    """``row`` or ``speed``, or ``failed`` with one line."""
    died: bool = False
    """The process ended before it replied."""


class Executor(Protocol[Task]):
    """Where tasks run; a task is under way until :meth:`wait` has given its reply."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    @property
    def running(self) -> list[Task]:
        """Tasks under way."""

    @property
    def free(self) -> int:
        """Tasks that could start now."""

    def submit(self, task: Task, message: dict[str, Any]) -> None:
        """Start a task; its message is what the worker gets."""

    def wait(self, timeout: float) -> Reply[Task] | None:
        """The next reply, or None when there is none in time."""

    def stop(self) -> None:
        """Ask running tasks to write a checkpoint and end."""


class MakeExecutor(Protocol):
    """Makes one; :class:`Pool` does for this machine."""

    def __call__(self, *, workers: int, threads: int, log: Path) -> Executor[Any]: ...


class Pool(Generic[Task]):
    """Processes that each do one task at a time, started when first needed and again where one died.

    Args:
        workers: processes at most.
        threads: threads of each.
        log: file for what they print.
    """

    def __init__(self, *, workers: int, threads: int, log: Path) -> None:
        self.workers, self.threads, self.log = workers, threads, log
        self._idle: list[subprocess.Popen[str]] = []
        self._busy: dict[int, tuple[subprocess.Popen[str], Task]] = {}
        self._listeners: dict[int, threading.Thread] = {}
        self._news: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def __enter__(self) -> Pool[Task]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def running(self) -> list[Task]:
        """Tasks under way."""
        return [task for _, task in self._busy.values()]

    @property
    def free(self) -> int:
        """Tasks that could start now."""
        return self.workers - len(self._busy)

    def submit(self, task: Task, message: dict[str, Any]) -> None:
        """Give a task to a process."""
        for process in [process for process in self._idle if process.poll() is not None]:
            self._idle.remove(process)
            self._bury(process)
        process = self._idle.pop() if self._idle else self._start()
        self._busy[process.pid] = process, task
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # of a process that died meanwhile; the end of its output says so
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()

    def wait(self, timeout: float) -> Reply[Task] | None:
        """The next reply, or None when there is none in time."""
        try:
            pid, line = self._news.get(timeout=timeout)
        except queue.Empty:
            return None
        if pid not in self._busy:
            for process in [process for process in self._idle if process.pid == pid]:
                self._idle.remove(process)
                self._bury(process)
            return None
        process, task = self._busy.pop(pid)
        if line is None:
            return Reply(task, {"failed": _end(self._bury(process))}, died=True)
        self._idle.append(process)
        return Reply(task, json.loads(line))

    def stop(self) -> None:
        """Ask running tasks to write a checkpoint and end."""
        for process, _ in self._busy.values():
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes at once."""
        for process in [*self._idle, *(process for process, _ in self._busy.values())]:
            process.kill()
            self._bury(process)
        self._idle, self._busy = [], {}

    def _bury(self, process: subprocess.Popen[str]) -> int:
        """Let go of a process that ended; return its exit code."""
        code = process.wait()
        self._listeners.pop(process.pid).join()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        return code

    def _start(self) -> subprocess.Popen[str]:
        count = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        # a session of its own: Ctrl-C reaches the parent alone, which then asks for checkpoints
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "unimixer.experiments.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        listener = self._listeners[process.pid] = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._news.put((process.pid, line))
        self._news.put((process.pid, None))


def _end(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
