"""Threads that take parts of a piece of work, on other processors than the thread that shares it out."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")
_LIBC = ctypes.PyDLL(None) if sys.platform == "linux" else None


class HelperThreads:
    """Run parts of a piece of work in threads of their own, while the caller runs its own part.

    A thread that is woken often starts on the processor of the thread that woke it, and waits there for milliseconds
    until the caller's part has ended or the kernel moves it. So Linux is told to start a helper on another processor.

    Args:
        count: number of threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._helpers = [_Helper(f"{name}-{number}") for number in range(count)]
        self._free = deque(self._helpers)

    def start(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Start work in a thread that has none; where all have some, run it here and now."""
        try:
            helper = self._free.pop()
        except IndexError:
            return _ran(work, *arguments)
        future = helper.start(work, *arguments)
        future.add_done_callback(lambda _: self._free.append(helper))
        return future

    def close(self) -> None:
        """Wait for what runs."""
        for helper in self._helpers:
            helper.pool.shutdown()


class _Helper:
    """One thread, and the processor on which it does not run."""

    def __init__(self, name: str) -> None:
        self.pool = ThreadPoolExecutor(1, name)
        self._thread, self._avoided = 0, -1

    def start(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        if _LIBC is not None:
            self._thread = self._thread or self.pool.submit(threading.get_native_id).result()
            self._avoid(_LIBC.sched_getcpu())
        return self.pool.submit(work, *arguments)

    def _avoid(self, processor: int) -> None:
        if processor == self._avoided:
            return
        with suppress(OSError):  # a processor was taken away meanwhile; the thread runs where it may
            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(self._thread, allowed - {processor} or allowed)
        self._avoided = processor


def _ran(work: Callable[..., Result], *arguments: Any) -> Future[Result]:
    future = Future[Result]()
    try:
        future.set_result(work(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future
