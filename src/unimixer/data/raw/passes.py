"""Run passes over the log, in this process or shard by shard in the workers of an executor."""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from unimixer.data.raw.tables import RawTables
from unimixer.errors import UnimixerError
from unimixer.progress import Bar, progress_bar
from unimixer.workers.executor import Executor, Report

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Steps = Generator[tuple[int, int], None, T_co]
"""Yields rows done and the row of the log that comes next; returns the result."""
WAIT_SECONDS = 0.2


class LogPass(Protocol[T_co]):
    """A pass over a shard of the log; it travels to the worker by pickle."""

    @property
    def title(self) -> str:
        """The text beside the progress bar."""

    def run(self, tables: RawTables, shard: range) -> Steps[T_co]:
        """Read a shard; an error belongs to the rows after the last step."""


class LogReader:
    """Runs passes over the log.

    Args:
        tables: the raw data; it must survive pickling where there is an executor.
        executor: runs the shards, by :func:`run_shard`; without one this process reads the whole log.
        folder: for files that the workers read and write; the caller removes it.
    """

    def __init__(self, tables: RawTables, executor: Executor[int] | None = None, folder: Path = Path()) -> None:
        self.tables, self.executor, self.folder = tables, executor, folder
        self.workers = 1 if executor is None else executor.workers
        if executor is not None:
            _pack(tables, folder)

    def run(self, log_pass: LogPass[T], shards: Sequence[range] | None = None) -> list[T]:
        """Run a pass on every shard (default: all of the log, every n-th piece each) and return the results in order.

        Raises:
            UnimixerError: the error of the first wrong row in the order of the log; or a worker died.
        """
        # the length of the log is not known yet, so the default has no ends
        shards = shards or [range(worker, sys.maxsize, self.workers) for worker in range(self.workers)]
        with progress_bar(log_pass.title, self.tables.num_rows) as advance:
            if self.executor is None:
                return [_drive(log_pass.run(self.tables, shard), advance) for shard in shards]
            return self._collect(self.executor, log_pass, shards, advance)

    def _collect(self, executor: Executor[int], log_pass: LogPass[T], shards: Sequence[range], advance: Bar) -> list[T]:
        collection = Collection(len(shards), advance)
        for number, shard in enumerate(shards):
            message = (self.folder, log_pass, shard, number)
            executor.submit(number, message, partial(collection.advance_to, number))
        while collection.open:
            reply = executor.wait(WAIT_SECONDS)
            if reply is not None and reply.died is not None:
                raise UnimixerError(
                    f"a worker of the preparation {reply.died}; nothing half-written was left: prepare again, with "
                    "fewer --workers where memory was short"
                )
            if reply is not None:
                collection.end(reply.task, reply.value)
        return collection.results(self.folder)


def _drive(steps: Steps[T], advance: Bar) -> T:
    while True:
        try:
            rows, _ = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        advance(rows)


@dataclass
class Collection:
    """Steps, ends and errors of all shards, until the pass is done or the first error of the log is known."""

    count: int
    advance: Bar

    def __post_init__(self) -> None:
        self._positions = [0] * self.count
        self._done: set[int] = set()
        self._errors: dict[int, tuple[int, Exception]] = {}

    def advance_to(self, shard: int, step: tuple[int, int]) -> None:
        """Note a step of a shard."""
        rows, self._positions[shard] = step
        self.advance(rows)

    def end(self, shard: int, error: tuple[int, Exception] | None) -> None:
        """Note the end of a shard: an error and the row before which it arose, or None."""
        if error is None:
            self._done.add(shard)
        else:
            self._errors[shard] = error

    @property
    def open(self) -> list[int]:
        """Shards to wait for: those not done that could still meet an earlier error than the known one."""
        limit = min((position for position, _ in self._errors.values()), default=sys.maxsize)
        running = (n for n in range(self.count) if n not in self._done and n not in self._errors)
        return [n for n in running if self._positions[n] < limit]

    def results(self, folder: Path) -> list[Any]:
        """Read the results of the shards, in their order; raises the first error."""
        if self._errors:
            raise min(self._errors.values(), key=lambda error: error[0])[1]
        return [_read_result(_result_path(folder, shard)) for shard in range(self.count)]


def _result_path(folder: Path, shard: int) -> Path:
    return folder / f"result-{shard}.pickle"


def _read_result(path: Path) -> Any:
    with path.open("rb") as file:
        result = pickle.load(file)
    path.unlink()
    return result


def _tables_path(folder: Path) -> Path:
    return folder / "tables.pickle"


def _pack(tables: RawTables, folder: Path) -> None:
    """Write the tables to a file from which workers open them; the log itself stays where it is."""
    try:
        data = pickle.dumps(tables, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UnimixerError(
            f"{tables.schema.name}: these tables cannot be handed to other processes ({error}); open them with "
            "open_raw, or prepare them with one worker"
        ) from None
    _tables_path(folder).write_bytes(data)


# ---- the worker's side ---------------------------------------------------------------------------------------------


def run_shard(message: tuple[Path, LogPass[Any], range, int], report: Report) -> tuple[int, Exception] | None:
    """Run a pass on a shard and write its result to a file; return an error and the row before which it arose."""
    folder, log_pass, shard, number = message
    position = 0
    try:
        steps = log_pass.run(_open_tables(folder), shard)
        while True:
            try:
                rows, position = next(steps)
            except StopIteration as end:
                with _result_path(folder, number).open("wb") as file:
                    pickle.dump(end.value, file, protocol=5)
                return None
            report((rows, position))
    except Exception as error:  # the parent raises the first one in the order of the log
        return position, _portable(error)


@lru_cache(maxsize=1)
def _open_tables(folder: Path) -> RawTables:
    """Open the tables once in a process."""
    with _tables_path(folder).open("rb") as file:
        tables: RawTables = pickle.load(file)
    return tables


def _portable(error: Exception) -> Exception:
    """Return the error itself if it survives pickling, else an error with its text."""
    if isinstance(error, UnimixerError):
        return UnimixerError(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    error.add_note("in a worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
    return error
