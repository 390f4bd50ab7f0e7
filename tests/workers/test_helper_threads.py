"""Threads that help: what they run, where they run it, and who runs it where none is free."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from unimixer.workers.helper_threads import HelperThreads


def test_parts_run_in_other_threads_and_in_the_callers_where_none_is_free() -> None:
    helpers, begun, go = HelperThreads(2, "test"), threading.Barrier(3), threading.Event()

    def part(number: int) -> tuple[int, int]:
        begun.wait(30)
        go.wait(30)
        return number, threading.get_native_id()

    running = [helpers.start(part, number) for number in range(2)]
    begun.wait(30)
    assert helpers.start(threading.get_native_id).result() == threading.get_native_id()
    go.set()
    found = [future.result(30) for future in running]
    assert [number for number, _ in found] == [0, 1]
    assert len({thread for _, thread in found} | {threading.get_native_id()}) == 3
    helpers.close()


def test_a_failure_is_the_callers_and_a_thread_that_failed_helps_again() -> None:
    helpers = HelperThreads(1, "test")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            helpers.start(lambda: 1 // 0).result(30)
    assert helpers.start(lambda: 1).result(30) == 1
    helpers.close()
    with pytest.raises(ZeroDivisionError):
        HelperThreads(0, "test").start(lambda: 1 // 0).result(30)


@pytest.mark.parametrize("processors", [1, 2])
def test_a_helper_stays_off_the_processor_of_its_caller_where_there_is_another(
    processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux is told on which processors a thread may run")
    told: list[set[int]] = []
    here = {7, 8} if processors == 2 else {7}
    monkeypatch.setattr("unimixer.workers.helper_threads._LIBC", type("C", (), {"sched_getcpu": lambda: 7}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: here)
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, mask: told.append(mask))
    helpers = HelperThreads(1, "test")
    for _ in range(3):
        helpers.start(lambda: None).result(30)
    helpers.close()
    assert told == [here - {7} or {7}]  # once: the caller has not moved


def test_a_processor_that_was_taken_away_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux is told on which processors a thread may run")

    def refused(thread: int, mask: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    helpers = HelperThreads(1, "test")
    assert helpers.start(lambda: 1).result(30) == 1
    helpers.close()
