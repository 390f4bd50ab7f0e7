"""Histories are causal: an impression sees what is strictly earlier, and nothing else."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.encoding.history import AFTER_THE_LOG, BEFORE_THE_LOG, HistoryIndex, snapshot_lists
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import History
from unimixer.errors import UnimixerError

NUM_USERS = 4
EVENTS = st.lists(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, 12)), max_size=40)
"""Users and times; the item of an event is its number."""


def build(events: list[tuple[int, int]], max_length: int) -> HistoryIndex:
    users = np.array([user for user, _ in events], dtype=np.int32)
    times = np.array([time for _, time in events], dtype=np.int64)
    items = np.arange(len(events), dtype=np.int32)
    return HistoryIndex.build(users, items, times, num_users=NUM_USERS, max_length=max_length)


def seen(index: HistoryIndex, users: list[int], times: list[int]) -> list[list[int]]:
    windows = index.windows(np.array(users, dtype=np.int32), np.array(times, dtype=np.int64))
    return [index.items.values[start : start + length].tolist() for start, length in windows]


@given(EVENTS, st.integers(1, 5), st.lists(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(-1, 14)), max_size=20))
def test_a_window_is_what_a_loop_over_all_events_finds(
    events: list[tuple[int, int]], max_length: int, asked: list[tuple[int, int]]
) -> None:
    found = seen(build(events, max_length), [u for u, _ in asked], [t for _, t in asked])
    for (user, time), window in zip(asked, found, strict=True):
        earlier = [(t, n) for n, (u, t) in enumerate(events) if u == user and t < time]
        assert window == [n for _, n in sorted(earlier)][-max_length:]


def test_an_event_at_the_very_time_of_the_impression_is_not_seen() -> None:
    index = build([(1, 5), (1, 6)], max_length=9)
    assert seen(index, [1, 1, 1, 1], [5, 6, 7, 4]) == [[], [0], [0, 1], []]


def test_events_of_a_snapshot_come_first_and_keep_their_order() -> None:
    index = build([(1, 5), (1, BEFORE_THE_LOG), (1, BEFORE_THE_LOG)], max_length=9)
    assert seen(index, [1, 1], [5, 6]) == [[1, 2], [1, 2, 0]]
    assert seen(index, [1], [-(10**15)]) == [[1, 2]]  # earlier than every impression, however early that is


def test_a_row_after_the_log_sees_the_newest_events() -> None:
    assert seen(build([(1, 5), (1, 6), (2, 7)], max_length=1), [1, 2, 3], [AFTER_THE_LOG] * 3) == [[1], [2], []]


def test_an_index_without_events_gives_empty_windows() -> None:
    assert seen(build([], max_length=3), [0, 3], [1, 2]) == [[], []]
    assert seen(build([(1, 5)], max_length=3), [], []) == []


def test_a_snapshot_whose_keys_lost_digits_in_a_float_is_refused() -> None:
    history = History(name="h", snapshot="past")
    users = pl.DataFrame({"past": [[1.0, None], [], [17.0, 2.0**53]]})
    with pytest.raises(UnimixerError, match=r"users.csv, row 3: past=9007199254740992.0 is a key of 2\^53 or more"):
        snapshot_lists(history, Chunk(users, "users.csv"))
    kept = snapshot_lists(history, Chunk(users.head(2), "users.csv"))
    assert kept.to_list() == [["1"], []]
