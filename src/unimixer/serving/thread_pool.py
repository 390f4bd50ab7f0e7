"""Run jobs in a thread pool with a bounded queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from unimixer.serving.errors import HTTPError
from unimixer.serving.metrics import Metrics

Result = TypeVar("Result")
LONGEST_WAY_S = 0.005
"""Longest time for which work that can wait gives way to jobs: under load there is no moment without one."""


class BoundedThreadPool:
    """Run jobs in a fixed number of threads and refuse jobs that exceed the queue.

    Args:
        name: plural noun for the jobs, used in messages and thread names.
        metrics: counters of refused requests.
        threads: number of jobs that run at once.
        queue: largest number of waiting jobs.
        timeout: seconds that a request may take. It bounds the queue at the current pace and appears in messages.
    """

    def __init__(self, name: str, metrics: Metrics, *, threads: int, queue: int, timeout: float) -> None:
        self.name, self.metrics, self.threads, self.timeout = name, metrics, threads, timeout
        self._capacity, self._refused = threads + queue, metrics.refused.labels("queue")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._in_flight, self._mean_s, self._count_lock = 0, 0.01, threading.Lock()

    @property
    def in_flight(self) -> int:
        """The number of jobs that run or wait."""
        return self._in_flight

    @property
    def idle(self) -> int:
        """The number of threads that run no job."""
        return max(0, self.threads - self._in_flight)

    @property
    def limit(self) -> int:
        """The largest number of jobs in flight: the capacity, or fewer if the current pace would miss the timeout."""
        return min(self._capacity, max(self.threads, int(self.timeout * self.threads / self._mean_s)))

    @property
    def full(self) -> bool:
        """Whether too many jobs wait for another one."""
        return self._in_flight >= self.limit

    def refusal(self) -> HTTPError:
        """Count and return the refusal (429) of a job that finds the pool full."""
        self._refused.inc()
        wait = math.ceil(self._in_flight * self._mean_s / self.threads)
        reason = f"{self._in_flight} {self.name} are in flight, at most {self.limit} are allowed; try again later"
        return HTTPError(429, reason, retry_after=max(1, wait))

    def check_room(self) -> None:
        """Refuse a request if the pool is full. Call this before reading the body, so that a refusal is cheap.

        Raises:
            HTTPError: too many jobs wait (429).
        """
        if self.full:
            raise self.refusal()

    async def run(self, work: Callable[[], Result], deadline: float) -> Result:
        """Run a job in a thread, unless its deadline passes while it waits.

        Args:
            work: the job.
            deadline: latest time of the answer, by ``time.monotonic``.

        Raises:
            HTTPError: too many jobs wait (429), or the deadline has passed (503).
        """
        future = self._submit(work)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._late("no answer", "items") from None

    async def finish(self, work: Callable[[], Result], deadline: float) -> Result:
        """Run a job as :meth:`run` does, but once it has started wait for its result, even past the deadline.

        Use it for a job that writes: the answer must say whether the write happened. Such a job bounds its own time.

        Raises:
            HTTPError: too many jobs wait (429), or the deadline has passed before the job started (503).
        """
        future = self._submit(work)
        done = asyncio.wrap_future(future)
        await asyncio.wait([done], timeout=max(0.0, deadline - time.monotonic()))
        if future.cancel():
            raise self._late("nothing was written", "rows")
        return await done

    def give_way(self) -> None:
        """Wait until no job is in flight, for a few milliseconds at most. Call this before work that can wait."""
        end = time.monotonic() + LONGEST_WAY_S
        while self._in_flight and time.monotonic() < end:
            time.sleep(0.001)

    def close(self) -> None:
        """Cancel the waiting jobs and wait for the running ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], Result]) -> Future[Result]:
        self.check_room()
        self._count(1)
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(lambda _: self._count(-1))  # counted until it ends, even if its caller has left
        return future

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._mean_s += 0.1 * (time.perf_counter() - started - self._mean_s)

    def _late(self, outcome: str, unit: str) -> HTTPError:
        self.metrics.refused.labels("time").inc()
        return HTTPError(503, f"{outcome} within {self.timeout:g} s; send fewer {unit} or try again", retry_after=1)

    def _count(self, change: int) -> None:
        with self._count_lock:
            self._in_flight += change
