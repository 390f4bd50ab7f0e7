"""The thread pool bounds its queue, and reports the result of every job that it started."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from unimixer.serving import thread_pool
from unimixer.serving.errors import HTTPError
from unimixer.serving.metrics import Metrics
from unimixer.serving.thread_pool import BoundedThreadPool


@pytest.fixture
def pool() -> Iterator[BoundedThreadPool]:
    found = BoundedThreadPool("requests", Metrics(), threads=1, queue=1, timeout=2.0)
    yield found
    found.close()


def test_work_that_has_begun_is_waited_for_and_what_has_not_is_never_done(pool: BoundedThreadPool) -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def slow() -> str:
        begun.set()
        release.wait(30)
        done.append("slow")
        return "written"

    async def both() -> tuple[str, HTTPError]:
        first = asyncio.create_task(pool.finish(slow, time.monotonic() + 0.1))
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(HTTPError) as late:
            await pool.finish(lambda: done.append("late"), time.monotonic() + 0.1)
        release.set()
        return await first, late.value

    answer, late = asyncio.run(both())
    pool.close()
    assert (answer, late.status, late.retry_after) == ("written", 503, 1)
    assert str(late) == "nothing was written within 2 s; send fewer rows or try again"
    assert done == ["slow"]
    assert pool.in_flight == 0


def test_a_full_pool_refuses_and_says_when_to_come_back(pool: BoundedThreadPool) -> None:
    release = threading.Event()

    async def three() -> HTTPError:
        tasks = [asyncio.create_task(pool.run(lambda: release.wait(30), time.monotonic() + 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPError) as full:
            pool.check_room()
        release.set()
        await asyncio.gather(*tasks)
        return full.value

    full = asyncio.run(three())
    assert (full.status, full.retry_after) == (429, 1)
    assert str(full) == "2 requests are in flight, at most 2 are allowed; try again later"
    pool.check_room()


def test_no_more_wait_than_find_an_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    clock = SimpleNamespace(perf_counter=lambda: passed, monotonic=time.monotonic)
    monkeypatch.setattr(thread_pool, "time", clock)
    pool = BoundedThreadPool("requests", Metrics(), threads=2, queue=30, timeout=0.2)
    assert pool.limit == 32

    def work() -> None:
        nonlocal passed
        passed += 0.02

    async def slow() -> None:
        for _ in range(30):
            await pool.run(work, time.monotonic() + 30)

    asyncio.run(slow())
    assert pool.limit == 20  # 0.02 s each: in 0.2 s two threads do so many
    pool.close()


def test_work_that_can_wait_gives_way_to_a_job_until_it_ends_and_not_for_ever(
    pool: BoundedThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        release.wait(30)

    async def run() -> None:
        running = asyncio.create_task(pool.run(job, time.monotonic() + 30))
        await asyncio.to_thread(begun.wait, 10)
        await asyncio.to_thread(pool.give_way)
        assert pool.in_flight == 1  # it went on beside the job
        monkeypatch.setattr("unimixer.serving.thread_pool.LONGEST_WAY_S", 30.0)
        waiting = asyncio.create_task(asyncio.to_thread(pool.give_way))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        release.set()
        await running
        pool.give_way()  # nothing runs
        waiting.cancel()

    asyncio.run(run())
