"""A crew of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from unimixer.data.raw.tables import RawTables
from unimixer.progress import Bar
from unimixer.workers.tasks import Collection, Crew, Task, died, messages, pack

T = TypeVar("T")


class Processes(Crew):
    """Processes that stay for all tasks of a preparation.

    Args:
        tables: the raw data; it must survive pickling.
        workers: number of processes; the cores are shared out between them.
        folder: for what they hand over; of the caller, who removes it.
    """

    def __init__(self, tables: RawTables, workers: int, folder: Path) -> None:
        super().__init__(tables)
        self.workers, self.folder = workers, folder
        self._members: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Self:
        packed = pack(self.tables, self.folder)
        # spawn, not fork: a forked copy of running thread pools (torch, polars) can hang
        context = multiprocessing.get_context("spawn")
        try:
            with _environment(max(1, (os.cpu_count() or 1) // self.workers)):
                for _ in range(self.workers):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_serve, args=(theirs, packed), daemon=True)
                    process.start()
                    theirs.close()
                    self._members.append((process, ours))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for process, connection in self._members:
            process.kill()
            process.join()
            connection.close()
        self._members = []

    def _run(self, task: Task[T], shares: Sequence[range], advance: Bar) -> list[T]:
        collection = Collection(len(shares), advance)
        for number, share in enumerate(shares):
            with suppress(BrokenPipeError):  # of a process that is gone the reading below tells
                self._members[number][1].send((task, share, self.folder / f"result-{number}.pickle"))
        numbers = {connection: number for number, (_, connection) in enumerate(self._members)}
        while waiting := collection.open:
            for ready in wait([self._members[number][1] for number in waiting]):
                assert isinstance(ready, Connection)
                try:
                    collection.take(numbers[ready], ready.recv())
                except (EOFError, ConnectionResetError):
                    process = self._members[numbers[ready]][0]
                    process.join()
                    raise died(_how(process.exitcode or 0)) from None
        return collection.results()


def _serve(connection: Connection, packed: Path) -> None:
    """A worker's life: tasks in, messages out, until the other end is gone."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        with packed.open("rb") as file:
            tables: RawTables = pickle.load(file)
        while True:
            task, share, result = connection.recv()
            for message in messages(task, tables, share, result):
                connection.send(message)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What processes that start in here inherit: their number of threads, and that Ctrl-C is the parent's business."""
    wanted = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS"), str(threads))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    resource_tracker.ensure_running()  # which every first start of a process begins, and then lets Ctrl-C in again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended by itself with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", perhaps by the system for want of memory" if name == "SIGKILL" else "")
