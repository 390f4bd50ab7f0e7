"""What is kept of encoded entities: at most so many rows, those of the running request among them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimixer.serving.encoding.row_cache import KEY_BYTES, MISSING_SLOT, Encoded, Lists, RowCache


def rows(numbers: list[int]) -> Encoded:
    """Rows that say which entity they are of; 0 is the missing one."""
    column = np.asarray(numbers, dtype=np.int32)
    lists = Lists(np.repeat(column[:, None], 3, axis=1), np.asarray([n % 4 for n in numbers], dtype=np.int64))
    shape = (len(numbers), 1)
    dense = column.astype(np.float32).reshape(shape)
    return Encoded(column.reshape(shape), dense, {"tags": lists}, column.reshape(shape), column.astype(np.int64))


def ask(cache: RowCache, numbers: list[int]) -> list[int]:
    """One request, as the encoder makes it; returns which rows it got."""
    keys = [str(number) if number else None for number in numbers]
    cache.begin()
    cache.use([slot for slot in cache.find(keys) if slot is not None])
    absent = [key for key in keys if key is not None and key not in cache]
    cache.add(absent, rows([int(key) for key in absent]))
    found = cache.take(cache.use(cache.find(keys)))
    assert found.revisions.tolist() == found.dense[:, 0].tolist() == found.history[:, 0].tolist()
    assert found.lists["tags"].values[:, 0].tolist() == found.ids[:, 0].tolist()
    assert found.lists["tags"].lengths.tolist() == [number % 4 for number in numbers]
    return [int(number) for number in found.ids[:, 0]]


@given(
    st.integers(5, 200),
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 30), max_size=5, unique=True)), max_size=40),
)
def test_a_request_gets_its_rows_and_no_more_are_kept_than_allowed(
    capacity: int, requests: list[list[int] | None]
) -> None:
    cache = RowCache(rows([0]), capacity)
    for numbers in requests:
        if numbers is None:  # a change in the store
            cache.drop([str(number) for number in range(0, 30, 7)])
            continue
        assert ask(cache, numbers) == numbers
        assert len(cache) <= capacity


def test_rows_that_were_not_used_for_longest_go() -> None:
    cache = RowCache(rows([0]), 4)
    for number in (1, 2, 3, 4):
        ask(cache, [number])
    ask(cache, [1])  # now 2 is the oldest
    ask(cache, [5])
    assert cache.find(["2"]) == [None]
    assert None not in cache.find(["1", "3", "4", "5"])
    ask(cache, [6, 7])
    assert [slot is None for slot in cache.find(["1", "3", "4", "5", "6", "7"])] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_large_cache_makes_room_for_more_than_one_request_and_never_from_the_running_one() -> None:
    cache = RowCache(rows([0]), 640)
    ask(cache, list(range(1, 641)))
    assert ask(cache, [*range(1, 640), 641]) == [*range(1, 640), 641]  # 640 alone may go, and ten would
    assert len(cache) == 640
    ask(cache, [700])
    assert len(cache) == 631  # ten went at once


def test_dropped_rows_give_their_slots_back() -> None:
    cache = RowCache(rows([0]), 100)
    ask(cache, [1, 2, 3])
    slots = cache.find(["1", "2", "3"])
    cache.clear()
    assert len(cache) == 0
    assert cache.find([None, "1"]) == [MISSING_SLOT, None]
    assert ask(cache, [4, 0, 5]) == [4, 0, 5]
    assert set(cache.find(["4", "5"])) < set(slots)


def test_long_keys_make_room_before_their_number_does() -> None:
    cache = RowCache(rows([0]), 100)
    for start in range(1, 2_000, 5):
        keys = [f"{number}" + "k" * 900 for number in range(start, start + 5)]
        cache.begin()
        cache.add(keys, rows(list(range(start, start + 5))))
        assert cache.take(cache.use(cache.find(keys))).ids[:, 0].tolist() == list(range(start, start + 5))
        assert cache.key_bytes <= 100 * KEY_BYTES
    assert 20 < len(cache) <= 100 * KEY_BYTES // 900
    large = [f"{number}" + "k" * 9_000 for number in range(10)]
    cache.begin()
    cache.add(large, rows(list(range(10))))  # one request is never cut
    assert None not in cache.find(large)
    assert len(cache) == 10
    cache.clear()
    assert cache.key_bytes == 0
