"""The LRU cache bounds its values in number and in bytes, and evicts the least recently used ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimixer.serving.encoding.lru import LARGE, LRUCache, size_of


@dataclass
class Row:
    ids: np.ndarray
    names: dict[str, list[str]]


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: LRUCache[int] = LRUCache(2, 10_000)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3_000)), max_size=30))
def test_bytes_are_counted_and_bounded(puts: list[tuple[str, int]]) -> None:
    cache: LRUCache[str] = LRUCache(3, 4_000)
    latest: dict[str, str] = {}
    for key, length in puts:
        cache.put(key, "x" * length)
        latest[key] = "x" * length
        assert cache.num_bytes <= 4_000
        assert len(cache) <= 3
        assert cache.get(key) == latest[key]  # a value that fits is cached
    inside = {key for key in latest if key in cache}
    assert cache.num_bytes == sum(size_of(key) + size_of(latest[key]) for key in inside)
    cache.clear()
    assert (cache.num_bytes, len(cache)) == (0, 0)


def test_a_value_that_is_too_large_is_not_cached_and_removes_the_old_one() -> None:
    cache: LRUCache[str] = LRUCache(3, 1_000)
    cache.put("a", "small")
    cache.put("a", "x" * 2_000)
    assert (cache.get("a"), cache.num_bytes) == (None, 0)


def test_a_value_of_many_times_the_average_drives_no_others_out() -> None:
    cache: LRUCache[str] = LRUCache(100, 100_000)
    for number in range(100):
        cache.put(str(number), "x" * 500)
    cache.put("large", "x" * LARGE * 1_000)
    assert (cache.get("large"), len(cache)) == (None, 100)
    cache.put("less", "x" * (LARGE - 1) * 1_000)
    assert cache.get("less") is not None


def test_the_size_of_a_value_is_that_of_all_its_parts() -> None:
    array, text = np.zeros(1_000, dtype=np.int64), "€" * 1_000
    row = Row(array, {"past": [text, text + "."]})
    assert 8_000 + 2 * 2_000 < size_of(row) < 8_000 + 2 * 2_000 + 2_000
    assert size_of(array[:500]) >= 4_000
    assert size_of((text,)) == sys.getsizeof((text,)) + sys.getsizeof(text)
