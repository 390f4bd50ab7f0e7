"""The processes of a run: who this one is, and the few things that all of them say to each other."""

from __future__ import annotations

import atexit
import gc
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
"""Seconds after its time in which torch itself may say why processes did not meet."""
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run. The default is one process alone, to which every method is free."""

    rank: int = 0
    size: int = 1
    distributed: bool = False
    """Whether a launcher started this process; then tables are TorchRec's, even of a single one."""
    local_rank: int = 0

    @property
    def leader(self) -> bool:
        """Whether this is rank 0, which alone writes files and talks to people."""
        return self.rank == 0

    def shards(self, count: int) -> range:
        """The shards of ``count`` that this process reads."""
        return range(self.rank, count, self.size)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, element by element."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, on every one of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def collect(self, value: T) -> list[T]:
        """The values of all processes on rank 0; the others get none."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leader else None
        dist.gather_object(value, found)
        return found or []

    def lead(self, action: Callable[[], T]) -> T:
        """Rank 0 acts; all get what came of it, or raise the mistake that it met."""
        if self.size == 1:
            return action()
        said: list[Any] = [None, None]
        if self.leader:
            try:
                said[0] = action()
            except (UnimixerError, OSError) as error:
                said[1] = str(error)
        dist.broadcast_object_list(said)
        if said[1] is not None:
            raise UnimixerError(said[1])
        result: T = said[0]
        return result

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.sums([0.0])


ALONE = World()
"""One process, of which the others are none."""


def launched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    found = os.environ if environment is None else environment
    return all(name in found for name in _VARIABLES)


@contextmanager
def world_of(timeout: int) -> Iterator[World]:
    """The world of this process; what ends because another process is gone ends with one sentence.

    Args:
        timeout: seconds to wait for the others, at the start and at every exchange.

    Raises:
        UnimixerError: packages are missing or do not fit, the port is taken, the others do not come or are gone.
    """
    if not launched():
        yield ALONE
        return
    from unimixer.training.distributed.triple import check_triple  # its package imports this file

    check_triple()
    world = World(
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
        True,
        int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )
    if not dist.is_initialized():
        _join(world, timeout)
    try:
        yield world
    except (dist.DistError, RuntimeError) as error:
        sentence = _lost(world, error)
        if sentence is None:
            raise
        raise sentence from error


def _join(world: World, timeout: int) -> None:
    """Meet the other processes."""
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group(
            backend, store=_store(timeout), rank=world.rank, world_size=world.size, timeout=timedelta(seconds=timeout)
        )
    except (dist.DistError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if "EADDRINUSE" in text or "address already in use" in text:
            raise UnimixerError(
                f"rank {world.rank}: {place} is taken by another process; choose a free port (--master-port)"
            ) from error
        raise UnimixerError(
            f"rank {world.rank}: the {world.size} processes did not meet at {place} within {timeout} s ({text[:120]}); "
            "start all of them, with the same address and a port that is theirs alone"
        ) from error
    atexit.register(_leave)


def _store(timeout: int) -> Any:
    """Where the processes find each other's addresses.

    torchrun's agent keeps one store over restarts, in which a process could meet the address of a dead one, so that
    every start has names of its own.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = _within(timeout + GRACE, lambda: next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout)))))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _within(seconds: float, action: Callable[[], T]) -> T:
    """What an action gives; torch waits without end for an answer of a program that took the port and says nothing."""
    found: list[T] = []
    mistakes: list[Exception] = []

    def act() -> None:
        try:
            found.append(action())
        except Exception as error:
            mistakes.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if mistakes:
        raise mistakes[0]
    if not found:
        raise RuntimeError(f"no answer in {seconds:g} s, perhaps from a program that is none of theirs")
    return found[0]


def _leave() -> None:
    if dist.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # sharded tensors hold on to the group
            dist.destroy_process_group()


def _lost(world: World, error: Exception) -> UnimixerError | None:
    """A failed exchange as a sentence; None for any other error."""
    text = " ".join(str(error).split())
    signs = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "Broken pipe", "timeout")
    if not isinstance(error, dist.DistError) and not any(sign in text for sign in signs):
        return None
    return UnimixerError(
        f"rank {world.rank}: another of the {world.size} processes is gone or too late ({text[:160]}); "
        "see what it said; torchrun --max-restarts=N --run FOLDER goes on from the last checkpoint by itself"
    )
