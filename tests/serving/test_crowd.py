"""Work in threads: what waits has a bound, and what changes something is reported as what became of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from unimixer.serving.crowd import Crowd
from unimixer.serving.errors import RefusedError
from unimixer.serving.metrics import Metrics


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    found = Crowd("requests", Metrics(), threads=1, queue=1, timeout=2.0)
    yield found
    found.close()


def test_work_that_has_begun_is_waited_for_and_what_has_not_is_never_done(crowd: Crowd) -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def slow() -> str:
        begun.set()
        release.wait(30)
        done.append("slow")
        return "written"

    async def both() -> tuple[str, RefusedError]:
        first = asyncio.create_task(crowd.finish(slow, time.monotonic() + 0.1))
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(RefusedError) as late:
            await crowd.finish(lambda: done.append("late"), time.monotonic() + 0.1)
        release.set()
        return await first, late.value

    answer, late = asyncio.run(both())
    crowd.close()
    assert (answer, late.status, late.retry_after) == ("written", 503, 1)
    assert str(late) == "nothing was written within 2 s; send fewer rows or try again"
    assert done == ["slow"]
    assert crowd.in_flight == 0


def test_a_full_crowd_refuses_and_says_when_to_come_back(crowd: Crowd) -> None:
    release = threading.Event()

    async def three() -> RefusedError:
        tasks = [asyncio.create_task(crowd.run(lambda: release.wait(30), time.monotonic() + 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as full:
            crowd.check_room()
        release.set()
        await asyncio.gather(*tasks)
        return full.value

    full = asyncio.run(three())
    assert (full.status, full.retry_after) == (429, 1)
    assert str(full) == "2 requests are waiting, at most 2; try again later"
    crowd.check_room()


def test_no_more_wait_than_find_an_answer_in_time() -> None:
    crowd = Crowd("requests", Metrics(), threads=2, queue=30, timeout=0.2)
    assert crowd.limit == 32

    async def slow() -> None:
        for _ in range(30):
            await crowd.run(lambda: time.sleep(0.02), time.monotonic() + 30)

    asyncio.run(slow())  # 0.02 s each: in 0.2 s two threads do 20
    assert 10 <= crowd.limit <= 22
    crowd.close()
