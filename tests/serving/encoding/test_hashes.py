"""Hashes of features: another value or order is another number, and many sizes of requests keep few weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimixer.serving.encoding.feature_hashes import _many_weights, _sums, _weights


def test_weights_are_the_numbers_of_splitmix64_made_odd() -> None:
    assert [int(weight) for weight in _weights(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F5,  # 0x6E789E6AA1B965F4 of seed 0, made odd
        0x06C45D188009454F,
    ]


@given(st.integers(0, 3_000))
def test_the_weights_of_a_row_do_not_depend_on_the_number_of_rows(count: int) -> None:
    assert len(_weights(count)) == count
    assert np.array_equal(_weights(count), _weights(5_000)[:count])


def test_requests_of_all_sizes_keep_few_weights() -> None:
    _many_weights.cache_clear()
    for count in range(1, 20_000, 7):
        _sums(np.zeros((count, 1), dtype=np.int32))
    assert _many_weights.cache_info().currsize <= 16
