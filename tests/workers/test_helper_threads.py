"""Threads that help: what they run, where they run it, and who runs it where none is free."""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from unimixer.workers import helper_threads
from unimixer.workers.helper_threads import HelperThreads

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told on which processors a thread may run")


def test_parts_run_at_once_in_threads_of_their_own_and_results_keep_their_order() -> None:
    helpers, begun = HelperThreads(2, "test"), threading.Barrier(3)

    def part(number: int) -> tuple[int, int]:
        begun.wait(30)  # ends only if all three run
        return number, threading.get_native_id()

    results = helpers.map(part, [0, 1, 2])
    assert [number for number, _ in results] == [0, 1, 2]
    assert results[0][1] == threading.get_native_id()
    assert len({thread for _, thread in results}) == 3
    helpers.close()


def test_the_caller_runs_the_parts_that_no_thread_is_free_for() -> None:
    helpers = HelperThreads(1, "test")
    assert len(set(helpers.map(lambda _: threading.get_native_id(), range(4)))) == 2
    helpers.close()
    assert HelperThreads(0, "test").map(lambda number: 2 * number, [1, 2, 3]) == [2, 4, 6]
    assert HelperThreads(0, "test").map(lambda number: 2 * number, []) == []


def test_a_failure_is_the_callers_and_a_thread_that_failed_helps_again() -> None:
    helpers = HelperThreads(1, "test")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            helpers.map(lambda number: 1 // number, [1, 0])
    assert helpers.map(lambda number: 1 // number, [1, 1]) == [1, 1]
    helpers.close()


@LINUX
@pytest.mark.parametrize("here", [{7, 8}, {7}])
def test_a_helper_stays_off_the_processor_that_its_caller_stays_on(
    here: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[tuple[bool, set[int]]] = []
    monkeypatch.setattr(helper_threads, "_LIBC", SimpleNamespace(sched_getcpu=lambda: 7))
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: here)
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, mask: moves.append((thread == 0, mask)))
    helpers = HelperThreads(1, "test")
    for _ in range(2):
        helpers.map(str, [1, 2])
    helpers.close()
    kept, back, helper = (True, {7}), (True, here), (False, here - {7} or here)
    assert moves == [kept, helper, back, kept, back]  # the helper is moved once: the caller has not moved


@LINUX
def test_a_caller_may_run_everywhere_again_when_it_is_done() -> None:
    before = os.sched_getaffinity(0)
    helpers = HelperThreads(1, "test")
    inside = helpers.map(lambda _: os.sched_getaffinity(0), [1, 2])[0]
    with pytest.raises(ZeroDivisionError):
        helpers.map(lambda number: 1 // number, [0, 1])
    helpers.close()
    assert (len(inside), os.sched_getaffinity(0)) == (1, before)


@LINUX
def test_a_processor_that_is_taken_away_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: int, mask: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    helpers = HelperThreads(1, "test")
    assert helpers.map(str, [1, 2]) == ["1", "2"]
    helpers.close()
