"""A crew of workers on a Ray cluster: the same tasks, on any machines that see the raw data and the store's folder."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from unimixer.data.raw.tables import RawTables
from unimixer.errors import UnimixerError
from unimixer.progress import Bar
from unimixer.workers.cluster import cluster
from unimixer.workers.tasks import Collection, Crew, Message, Task, died, messages, pack, until

T = TypeVar("T")
NEWS_EVERY = 0.5
"""Seconds that a worker works between two reports."""


class RayCrew(Crew):
    """Actors on a cluster, of one core each.

    Ray places and watches; it moves no data. The raw files and the folder must have the same paths on every machine.

    Args:
        tables: the raw data; it must survive pickling.
        workers: number of actors; more than the cluster has cores is an error, not a wait without end.
        folder: for what they hand over; of the caller, who removes it.
        address: see :func:`~unimixer.workers.cluster.cluster`.
    """

    def __init__(self, tables: RawTables, workers: int, folder: Path, address: str) -> None:
        super().__init__(tables)
        self.workers, self.folder, self.address = workers, folder, address
        self._stack = ExitStack()
        self._ray: Any = None
        self._members: list[Any] = []

    def __enter__(self) -> Self:
        packed = pack(self.tables, self.folder)
        with ExitStack() as stack:
            self._ray = stack.enter_context(cluster(self.address, "preparing on a Ray cluster", cores=self.workers))
            cores = int(self._ray.cluster_resources().get("CPU", 0))
            if cores < self.workers:
                raise UnimixerError(
                    f"--workers {self.workers}: the cluster has {cores} cores, and every worker needs one; "
                    f"use --workers {cores} or fewer"
                )
            actor = self._ray.remote(num_cpus=1)(_Worker)
            stack.callback(self._end)
            self._members = [actor.remote(str(packed), str(Path.cwd())) for _ in range(self.workers)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _end(self) -> None:
        for member in self._members:
            with suppress(Exception):  # of a machine that is gone there is nothing left to end
                self._ray.kill(member)
        self._members = []

    def _run(self, task: Task[T], shares: Sequence[range], advance: Bar) -> list[T]:
        collection, news = Collection(len(shares), advance), {}
        for number, share in enumerate(shares):
            result = str(self.folder / f"result-{number}.pickle")
            self._members[number].begin.remote(pickle.dumps(task), share.start, share.stop, share.step, result)
            news[self._members[number].news.remote()] = number
        while waiting := collection.open:
            ready, _ = self._ray.wait([ref for ref, number in news.items() if number in waiting], num_returns=1)
            number = news.pop(ready[0])
            try:
                for message in pickle.loads(self._ray.get(ready[0])):
                    collection.take(number, message)
            except self._ray.exceptions.RayError as error:
                # the last line says why, those before it where
                reason = next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
                raise died(f"or its machine was lost (Ray: {reason.strip().rstrip('.')})") from None
            if number in collection.open:
                news[self._members[number].news.remote()] = number
        return collection.results()


class _Worker:
    """Does a task step by step, as far as each call for news allows."""

    def __init__(self, packed: str, folder: str) -> None:
        os.chdir(folder)  # where relative paths of raw files begin
        with Path(packed).open("rb") as file:
            self._tables: RawTables = pickle.load(file)
        self._messages: Iterator[Message] = iter(())

    def begin(self, task: bytes, start: int, stop: int, step: int, result: str) -> None:
        """Take a task."""
        self._messages = messages(pickle.loads(task), self._tables, range(start, stop, step), Path(result))

    def news(self) -> bytes:
        """Work for a while and tell what happened."""
        return pickle.dumps(until(self._messages, NEWS_EVERY))
