"""Threads that take parts of a piece of work, on other processors than the thread that shares it out."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
_LIBC = ctypes.PyDLL(None) if sys.platform == "linux" else None


class HelperThreads:
    """Run parts of a piece of work in threads of their own, while the caller runs its own part.

    Linux often starts a thread that is woken on the processor of the thread that woke it. There it waits for
    milliseconds, until the other one's part has ended or the kernel moves it, while another processor is idle. So a
    caller stays on its processor as long as helpers run, and they stay off it.

    Args:
        count: number of threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._helpers = [_Helper(f"{name}-{number}") for number in range(count)]
        self._free = deque(self._helpers)

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Run the first part here, and the others in threads that have none, or here where all have some."""
        if len(parts) < 2:
            return [work(part) for part in parts]
        first, *others = parts
        with _kept_on_its_processor() as elsewhere:
            running = [self._start(elsewhere, work, part) for part in others]
            return [work(first), *(work(part) if future is None else future.result() for part, future in running)]

    def close(self) -> None:
        """Wait for what runs."""
        for helper in self._helpers:
            helper.pool.shutdown()

    def _start(
        self, processors: set[int], work: Callable[[Part], Result], part: Part
    ) -> tuple[Part, Future[Result] | None]:
        try:
            helper = self._free.pop()
        except IndexError:
            return part, None
        helper.run_on(processors)
        future = helper.pool.submit(work, part)
        future.add_done_callback(lambda _: self._free.append(helper))
        return part, future


class _Helper:
    """One thread, and the processors on which it runs."""

    def __init__(self, name: str) -> None:
        self.pool = ThreadPoolExecutor(1, name)
        self._thread, self._processors = 0, set[int]()

    def run_on(self, processors: set[int]) -> None:
        if not processors or processors == self._processors:
            return
        self._thread = self._thread or self.pool.submit(threading.get_native_id).result()
        with suppress(OSError):  # a processor was taken away meanwhile; the thread runs where it may
            os.sched_setaffinity(self._thread, processors)
        self._processors = processors


@contextmanager
def _kept_on_its_processor() -> Iterator[set[int]]:
    """Keep this thread on the processor that it runs on, and tell the others; none where a system does not tell."""
    if _LIBC is None:
        yield set()
        return
    allowed, processor = os.sched_getaffinity(0), _LIBC.sched_getcpu()
    with suppress(OSError):
        os.sched_setaffinity(0, {processor})
    try:
        yield allowed - {processor} or allowed
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)
