"""The executor of this machine: every worker is a process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from unimixer.workers.executor import Executor, Reply, Task, Work

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end neither a process while it starts nor the server."""
PRELOAD: list[str] = []
"""Modules that the server imports beside the module of the work."""
_STARTS = threading.Lock()
"""Held while a process starts, which inherits the state of the whole program."""


class LocalExecutor(Executor[Task]):
    """Processes on this machine.

    Args:
        work: see :class:`~unimixer.workers.executor.Executor`, as ``workers``, ``threads`` and ``log``.
        workers: processes at most.
        threads: threads of each.
        log: file for what processes print.
        imports_main: let processes import the script of this one, which messages may need that refer to it.
    """

    def __init__(self, work: Work, *, workers: int, threads: int, log: Path | None, imports_main: bool = False) -> None:
        super().__init__(work, workers=workers, threads=threads, log=log)
        self.imports_main = imports_main

    def wait(self, timeout: float) -> Reply[Task] | None:
        """Return the next reply, or None if there is none within ``timeout`` seconds."""
        done, _ = wait(self._busy, timeout, FIRST_COMPLETED)
        for running in self._busy.values():
            running.hear(running.worker.reports())
        for future in done:
            process, task, _ = self._busy.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                return Reply(task, died=_how_it_ended(self._end(process)))
            self._idle.append(process)
            return Reply(task, future.result())
        return None

    def stop(self) -> None:
        """Send SIGTERM to the processes of running tasks, which then write a checkpoint and end."""
        for running in self._busy.values():
            running.worker.process.terminate()

    def _send(self, message: bytes) -> tuple[_Process, Future[Any]]:
        while self._idle:
            process = self._idle.pop()
            with suppress(BrokenProcessPool):
                if process.process.is_alive():
                    return process, process.send(self.work, message)
            self._end(process)  # it died while it was idle
        process = _Process(self.work.__module__, self.threads, self.log, imports_main=self.imports_main)
        return process, process.send(self.work, message)

    def _end(self, worker: _Process) -> int:
        return worker.end()


class _Process:
    """A pool of one process; a pool that loses a process fails all its tasks, so here it fails one."""

    def __init__(self, module: str, threads: int, log: Path | None, *, imports_main: bool) -> None:
        # not fork: a copy of running thread pools (torch, polars) can hang. The server imports and computes nothing,
        # so its copies start at once, without thread pools. What needs the script of this process starts its workers
        # once, and Ctrl-C ends it without a wait for the imports of a server
        served = sys.platform == "linux" and not imports_main
        context = multiprocessing.get_context("forkserver" if served else "spawn")
        if served:
            context.set_forkserver_preload([module, *PRELOAD])
        self._reports, reports = context.Pipe(duplex=False)
        variables = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        self._pool = ProcessPoolExecutor(1, context, _begin, (reports, log, variables))
        with _STARTS, _inherited(threads, imports_main=imports_main):
            others = set(multiprocessing.active_children())
            self._pool.submit(int)  # the first task starts the process
            (self.process,) = set(multiprocessing.active_children()) - others
        reports.close()
        self._ending = threading.Lock()  # an actor of a cluster may end its process in two threads

    def send(self, work: Work, message: bytes) -> Future[Any]:
        """Start a task."""
        return self._pool.submit(_do, work, message)

    def reports(self) -> Iterator[Any]:
        """Yield the reports that have arrived."""
        with suppress(EOFError, OSError):  # the process died; its future says so
            while self._reports.poll():
                yield self._reports.recv()

    def end(self) -> int:
        """End the process; return its exit code."""
        with self._ending:
            self.process.kill()
            self._pool.shutdown()
            self.process.join()
            self._reports.close()
            return self.process.exitcode or 0


@contextmanager
def _inherited(threads: int, *, imports_main: bool) -> Iterator[None]:
    """Let a process that starts in this context inherit its number of threads and blocked signals to stop."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    main = sys.modules["__main__"]
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    resource_tracker.ensure_running()  # the first start of a process would start it, and then let Ctrl-C in again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS) if hasattr(signal, "pthread_sigmask") else None
    if not imports_main:  # a process imports the script that is here
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", perhaps by the system for want of memory" if name == "SIGKILL" else "")


# ---- the worker's side ---------------------------------------------------------------------------------------------

_reports: Connection


def _begin(reports: Connection, log: Path | None, variables: dict[str, str]) -> None:
    """Prepare a worker: print to the log, leave Ctrl-C to the parent, and end with the parent."""
    global _reports
    _reports = reports
    # the server has the variables and the threads of its start
    os.environ.clear()
    os.environ.update(variables)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(variables[THREAD_VARIABLES[0]]))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _do(work: Work, message: bytes) -> Any:
    return work(pickle.loads(message), _reports.send)
