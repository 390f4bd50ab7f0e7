"""What is kept is bounded in number and in bytes, and what is used stays."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimixer.serving.encoding.lru import LARGE, Kept, size_of


@dataclass
class Row:
    ids: np.ndarray
    names: dict[str, list[str]]


def test_the_value_not_used_for_longest_goes_first() -> None:
    kept: Kept[int] = Kept(2, 10_000)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert (kept.get("a"), kept.get("b"), kept.get("c"), len(kept)) == (1, None, 3, 2)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3_000)), max_size=30))
def test_bytes_are_counted_and_bounded(puts: list[tuple[str, int]]) -> None:
    kept: Kept[str] = Kept(3, 4_000)
    held: dict[str, str] = {}
    for key, length in puts:
        kept.put(key, "x" * length)
        held[key] = "x" * length
        assert kept.taken <= 4_000
        assert len(kept) <= 3
        assert kept.get(key) == held[key]  # a value that fits is kept
    inside = {key for key in held if key in kept}
    assert kept.taken == sum(size_of(key) + size_of(held[key]) for key in inside)
    kept.clear()
    assert (kept.taken, len(kept)) == (0, 0)


def test_a_value_that_is_too_large_is_not_kept_and_takes_the_old_one_away() -> None:
    kept: Kept[str] = Kept(3, 1_000)
    kept.put("a", "small")
    kept.put("a", "x" * 2_000)
    assert (kept.get("a"), kept.taken) == (None, 0)


def test_a_value_of_many_times_the_average_drives_no_others_out() -> None:
    kept: Kept[str] = Kept(100, 100_000)
    for number in range(100):
        kept.put(str(number), "x" * 500)
    kept.put("large", "x" * LARGE * 1_000)
    assert (kept.get("large"), len(kept)) == (None, 100)
    kept.put("less", "x" * (LARGE - 1) * 1_000)
    assert kept.get("less") is not None


def test_the_size_of_a_value_is_that_of_all_its_parts() -> None:
    array, text = np.zeros(1_000, dtype=np.int64), "€" * 1_000
    row = Row(array, {"past": [text, text + "."]})
    assert 8_000 + 2 * 2_000 < size_of(row) < 8_000 + 2 * 2_000 + 2_000
    assert size_of(array[:500]) >= 4_000
    assert size_of((text,)) == sys.getsizeof((text,)) + sys.getsizeof(text)
