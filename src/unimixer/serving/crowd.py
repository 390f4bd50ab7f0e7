"""Work in threads: some at once, some waiting, no more."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from unimixer.serving.errors import RefusedError
from unimixer.serving.metrics import Metrics

Result = TypeVar("Result")


class Crowd:
    """A pool of threads with a bounded crowd before it.

    Args:
        name: of the crowd, in metrics and messages.
        metrics: counters.
        threads: jobs that run at once.
        queue: jobs that wait.
        timeout: seconds that a request has, for messages.
    """

    def __init__(self, name: str, metrics: Metrics, *, threads: int, queue: int, timeout: float) -> None:
        self.name, self.metrics, self.threads, self.timeout = name, metrics, threads, timeout
        self._places = threads + queue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._in_flight, self._mean, self._counting = 0, 0.01, threading.Lock()

    @property
    def in_flight(self) -> int:
        """Jobs that run or wait."""
        return self._in_flight

    @property
    def limit(self) -> int:
        """How many may be here: no more than find an answer in time, at the pace of now."""
        return min(self._places, max(self.threads, int(self.timeout * self.threads / self._mean)))

    def check_room(self) -> None:
        """Refuse where there is no place; asked before a body is read, a refusal costs next to nothing.

        Raises:
            RefusedError: too many wait (429).
        """
        if self._in_flight >= self.limit:
            self.metrics.refused.labels("queue").inc()
            wait = math.ceil(self._in_flight * self._mean / self.threads)
            raise RefusedError(429, f"{self._in_flight} {self.name} are waiting, at most {self.limit}; try again later",
                               retry_after=max(1, wait))  # fmt: skip

    async def run(self, work: Callable[[], Result], deadline: float) -> Result:
        """Do some work in a thread; it is not begun after the deadline.

        Args:
            work: what to do.
            deadline: of ``time.monotonic``.

        Raises:
            RefusedError: too many wait (429), or the time is over (503).
        """
        future = self._submit(work)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._late("no answer", "items") from None

    async def finish(self, work: Callable[[], Result], deadline: float) -> Result:
        """As :meth:`run`, but work that has begun is waited for: the answer tells what became of it.

        Work that changes something must not be reported as given up and be done later all the same, so it bounds its
        own time.

        Raises:
            RefusedError: too many wait (429), or the time is over before the work has begun (503).
        """
        future = self._submit(work)
        done = asyncio.wrap_future(future)
        await asyncio.wait([done], timeout=max(0.0, deadline - time.monotonic()))
        if future.cancel():
            raise self._late("nothing was written", "rows")
        return await done

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], Result]) -> Future[Result]:
        self.check_room()
        self._count(1)
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(lambda _: self._count(-1))  # it counts until it ends, even where nobody waits for it
        return future

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._mean += 0.1 * (time.perf_counter() - started - self._mean)

    def _late(self, what: str, fewer: str) -> RefusedError:
        self.metrics.refused.labels("time").inc()
        return RefusedError(503, f"{what} within {self.timeout:g} s; send fewer {fewer} or try again", retry_after=1)

    def _count(self, change: int) -> None:
        with self._counting:
            self._in_flight += change
