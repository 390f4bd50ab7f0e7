"""The processes of a run: their ranks, how they meet, and the few values that they exchange."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unimixer.errors import UnimixerError

T = TypeVar("T")
GRACE = 2.0
"""Seconds after the timeout in which torch itself may say why processes did not meet."""
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train a run. The default is a single process, in which every method costs nothing."""

    rank: int = 0
    size: int = 1
    distributed: bool = False
    """Whether a launcher started this process; TorchRec then holds the tables, even those of a single process."""
    local_rank: int = 0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is rank 0, the only one that writes files and prints."""
        return self.rank == 0

    def shards(self, count: int) -> range:
        """Return the data shards, out of ``count``, that this process reads."""
        return range(self.rank, count, self.size)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sum values over all processes, element by element."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Give every process the values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T]:
        """Give rank 0 the values of all processes; the other ranks get an empty list."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_rank_zero else None
        dist.gather_object(value, values)
        return values or []

    def on_rank_zero(self, action: Callable[[], T]) -> T:
        """Run an action on rank 0; every process gets its result, or raises its error."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_rank_zero:
            try:
                outcome[0] = action()
            except (UnimixerError, OSError) as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise UnimixerError(outcome[1])
        result: T = outcome[0]
        return result

    def barrier(self) -> None:
        """Wait until all processes get here."""
        self.sums([0.0])


SINGLE_PROCESS = ProcessGroup()
"""The trivial process group: this process is the only one."""


def launched(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether torchrun, or a program that sets the same variables, started this process."""
    variables = os.environ if environment is None else environment
    return all(name in variables for name in _VARIABLES)


@contextmanager
def join_processes(timeout: int) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun describes; report a lost process as one error.

    Args:
        timeout: seconds to wait for the others, at the start and at every exchange.

    Raises:
        UnimixerError: if the port is taken, or other processes do not come or die.
    """
    if not launched():
        yield SINGLE_PROCESS
        return
    processes = ProcessGroup(
        rank=int(os.environ["RANK"]),
        size=int(os.environ["WORLD_SIZE"]),
        distributed=True,
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )
    if not dist.is_initialized():
        _join(processes, timeout)
    try:
        yield processes
    except (dist.DistError, RuntimeError) as error:
        lost = _lost_process(processes, error)
        if lost is None:
            raise
        raise lost from error


def _join(processes: ProcessGroup, timeout: int) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    limit, rank, size = timedelta(seconds=timeout), processes.rank, processes.size
    try:
        dist.init_process_group(backend, store=_store(timeout), rank=rank, world_size=size, timeout=limit)
    except (dist.DistError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if "EADDRINUSE" in text or "address already in use" in text:
            raise UnimixerError(
                f"rank {rank}: {address} is taken by another process; choose a free port (--master-port)"
            ) from error
        raise UnimixerError(
            f"rank {rank}: the {size} processes did not meet at {address} within {timeout} s "
            f"({text[:120]}); start all of them, with the same address and a port that no other program uses"
        ) from error
    atexit.register(_leave)


def _store(timeout: int) -> Any:
    """Open the store in which processes find each other's addresses.

    torchrun's agent keeps one store over restarts, in which a process could find the address of a dead one. So every
    start has keys of its own.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = _within(timeout + GRACE, lambda: next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout)))))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Run an action with a time limit: torch waits forever for a program that holds the port and never answers."""
    results: list[T] = []
    errors: list[Exception] = []

    def act() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise RuntimeError(f"no answer in {seconds:g} s, perhaps another program holds the port")
    return results[0]


def _leave() -> None:
    if dist.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # sharded tensors keep the group alive
            dist.destroy_process_group()


def _lost_process(processes: ProcessGroup, error: Exception) -> UnimixerError | None:
    """Translate a failed exchange into one sentence; return None for any other error."""
    text = " ".join(str(error).split())
    signs = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "Broken pipe", "timeout")
    if not isinstance(error, dist.DistError) and not any(sign in text for sign in signs):
        return None
    return UnimixerError(
        f"rank {processes.rank}: another of the {processes.size} processes died or is too late ({text[:160]}); "
        "read its error; torchrun --max-restarts=N --run FOLDER goes on from the last checkpoint by itself"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the notices that torch.distributed and TorchRec write for their own developers."""
    loggers = [logging.getLogger(name) for name in ("torchrec", "fbgemm_gpu", "torch.distributed", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
