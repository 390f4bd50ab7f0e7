"""Who reads the log: this process, several on this machine, or workers of a Ray cluster; all do the same tasks."""

from __future__ import annotations

import pickle
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from unimixer.data.raw.tables import RawTables
from unimixer.errors import UnimixerError
from unimixer.progress import Bar, progress_bar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Steps = Generator[tuple[int, int], None, T_co]
"""Yields rows done and the row of the log that comes next; returns the result."""
Message = tuple[str, Any, Any]
"""``at, rows, next row``, or ``done, file, None``, or ``failed, next row, error``."""


class Task(Protocol[T_co]):
    """Something to do with a share of the log; travels to the worker by pickle."""

    @property
    def title(self) -> str:
        """What the progress bar says."""

    def run(self, tables: RawTables, share: range) -> Steps[T_co]:
        """Do it; an error belongs to the rows after the last step."""


def strides(workers: int) -> list[range]:
    """Every n-th piece for each of n workers: shares of a log whose length is not known yet."""
    return [range(worker, sys.maxsize, workers) for worker in range(workers)]


class Crew:
    """One worker, this process; also what the crews of several workers share.

    Args:
        tables: the raw data.
    """

    workers = 1

    def __init__(self, tables: RawTables) -> None:
        self.tables = tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the workers."""

    def run(self, task: Task[T], shares: Sequence[range] | None = None) -> list[T]:
        """Do a task on every share (default: all of the log, shared out) and return the results in their order.

        Raises:
            UnimixerError: the one of the first wrong row in the order of the log; or a worker died.
        """
        with progress_bar(task.title, self.tables.num_rows) as advance:
            return self._run(task, shares or strides(self.workers), advance)

    def _run(self, task: Task[T], shares: Sequence[range], advance: Bar) -> list[T]:
        return [_walk(task.run(self.tables, share), advance) for share in shares]


def _walk(steps: Steps[T], advance: Bar) -> T:
    while True:
        try:
            rows, _ = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        advance(rows)


# ---- the worker's side ---------------------------------------------------------------------------------------------


def messages(task: Task[Any], tables: RawTables, share: range, result: Path) -> Iterator[Message]:
    """Do a task and tell about it; what came of it is written to the file ``result``."""
    position = 0
    try:
        steps = task.run(tables, share)
        while True:
            try:
                rows, position = next(steps)
            except StopIteration as end:
                with result.open("wb") as file:
                    pickle.dump(end.value, file, protocol=5)
                break
            yield "at", rows, position
    except Exception as error:  # it is raised where the whole is known
        yield "failed", position, _portable(error)
        return
    yield "done", str(result), None


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the way between processes, else one of its kind with its text."""
    if isinstance(error, UnimixerError):
        return UnimixerError(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    error.add_note("in a worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
    return error


# ---- the side of the process that was asked ------------------------------------------------------------------------


@dataclass
class Collection:
    """Messages of all workers for one task, until it is done or the first error in the order of the log is known."""

    count: int
    advance: Bar

    def __post_init__(self) -> None:
        self._positions = [0] * self.count
        self._files: dict[int, str] = {}
        self._errors: dict[int, tuple[int, Exception]] = {}

    def take(self, worker: int, message: Message) -> None:
        """Note a message."""
        what, first, second = message
        if what == "at":
            self.advance(first)
            self._positions[worker] = second
        elif what == "done":
            self._files[worker] = first
        else:
            self._errors[worker] = first, second

    @property
    def open(self) -> list[int]:
        """Workers of whom news is needed: those not done that could still meet an earlier error than the known one."""
        limit = min((position for position, _ in self._errors.values()), default=sys.maxsize)
        running = (n for n in range(self.count) if n not in self._files and n not in self._errors)
        return [n for n in running if self._positions[n] < limit]

    def results(self) -> list[Any]:
        """What the workers returned, in their order; raises the first error."""
        if self._errors:
            raise min(self._errors.values(), key=lambda error: error[0])[1]
        return [_read(Path(self._files[worker])) for worker in range(self.count)]


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        value = pickle.load(file)
    path.unlink()
    return value


def pack(tables: RawTables, folder: Path) -> Path:
    """Write the tables to a file from which workers open them; the log itself stays where it is."""
    path = folder / "tables.pickle"
    try:
        data = pickle.dumps(tables, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UnimixerError(
            f"{tables.schema.name}: these tables cannot be handed to other processes ({error}); open them with "
            "open_raw, or prepare them with one worker"
        ) from None
    path.write_bytes(data)
    return path


def died(how: str) -> UnimixerError:
    """The error for a worker that ended before it replied."""
    return UnimixerError(
        f"a worker of the preparation {how}; nothing half-written was left: prepare again, with fewer --workers where "
        "memory was short"
    )


def until(iterator: Iterator[Message], seconds: float) -> list[Message]:
    """What an iterator gives in some time; all of it where it ends earlier."""
    end, found = time.monotonic() + seconds, []
    for message in iterator:
        found.append(message)
        if time.monotonic() > end:
            break
    return found
