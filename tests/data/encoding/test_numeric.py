"""Numbers: what is learned from the training part and how it is applied."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.encoding.numeric import NumericFit, check_range
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature
from unimixer.errors import UnimixerError


def feature(transform: str, **options: object) -> Feature:
    return Feature.model_validate({"name": "x", "kind": "numeric", "domain": "item", "transform": transform, **options})


def test_standardised_values_of_the_training_part_have_mean_0_and_spread_1() -> None:
    for transform in ("standardise", "log_standardise"):
        sample = np.random.default_rng(0).exponential(100, 1_000)
        values = NumericFit.fit(feature(transform), sample).apply(feature(transform), sample)
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-12)


def test_the_logarithm_keeps_the_sign_and_nothing_else_is_learned() -> None:
    values = NumericFit.fit(feature("log"), np.array([5.0])).apply(feature("log"), np.array([np.e - 1, 0, 1 - np.e]))
    np.testing.assert_allclose(values, [1, 0, -1])


def test_without_a_transform_values_stay_as_they_are_and_missing_ones_missing() -> None:
    numbers = np.array([1.5, np.nan, -2])
    for transform in ("none", "log", "standardise", "log_standardise"):
        fit = NumericFit.fit(feature(transform), np.array([1.0, 2.0]))
        assert np.isnan(fit.apply(feature(transform), numbers)).tolist() == [False, True, False]
    np.testing.assert_array_equal(NumericFit().apply(feature("none"), numbers), numbers)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1])
def test_a_constant_column_becomes_zero(value: float) -> None:
    # the spread of 1,000 times 0.1 is a rounding error and not 0
    sample = np.full(1_000, value)
    values = NumericFit.fit(feature("standardise"), sample).apply(feature("standardise"), sample)
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_buckets_hold_equal_shares_and_a_missing_value_has_none() -> None:
    sample = np.arange(100, dtype=np.float64)
    fit = NumericFit.fit(feature("bucketise", num_buckets=4), sample)
    assert fit.edges == (24.75, 49.5, 74.25)
    buckets = fit.bucket(np.array([-5, 24.75, 30, 99, 1e9, np.nan]))
    assert buckets.to_list() == ["0", "1", "1", "3", "3", None]


def test_a_number_and_the_same_number_in_32_bits_fall_into_one_bucket() -> None:
    sample = np.arange(1, 100) / 10
    wide = sample.astype(np.float32).astype(np.float64)
    assert not np.array_equal(sample, wide)
    for learned in (sample, wide):
        fit = NumericFit.fit(feature("bucketise", num_buckets=10), learned)
        assert fit.bucket(sample).to_list() == fit.bucket(wide).to_list()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.integers(1, 9))
def test_buckets_of_repeated_values_are_numbered_without_gaps(sample: list[int], num_buckets: int) -> None:
    values = np.array(sample, dtype=np.float64)
    fit = NumericFit.fit(feature("bucketise", num_buckets=num_buckets), values)
    found = {int(b) for b in fit.bucket(np.linspace(-1, 4, 101))}
    assert found <= set(range(len(fit.edges) + 1))
    assert len(fit.edges) < num_buckets or num_buckets == 1


def test_a_column_without_a_number_in_the_training_part_is_named() -> None:
    with pytest.raises(UnimixerError, match="feature 'x': column 'x' has no number in the training part"):
        NumericFit.fit(feature("none"), np.array([]))


PRICES = np.random.default_rng(0).lognormal(3, 1, 600).round(2)


@pytest.mark.parametrize("code", [1e30, -1e30, 1e12, float(-(2**63))])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_a_code_that_makes_one_point_of_all_other_values_is_refused_by_its_value(code: float, rows: int) -> None:
    sample = np.concatenate([PRICES, np.full(rows, code)])
    with pytest.raises(UnimixerError) as error:
        NumericFit.fit(feature("standardise"), sample)
    assert f"feature 'x': x={code!r} is {rows:,} of {600 + rows:,} training values" in str(error.value)
    assert f"write missing: ['{code!r}'], else correct the rows or choose transform: log_standardise" in str(
        error.value
    )
    for transform in ("none", "log", "log_standardise", "bucketise"):
        NumericFit.fit(feature(transform), sample)


@pytest.mark.parametrize(
    "sample",
    [
        [0, 1, 1, 0],
        [0] * 1000 + [1e9],
        [0.1, 0.1 + 1e-16, 5, 9, 1e6],
        [*range(1000), 1e8],
        np.exp(np.random.default_rng(0).normal(-10, 10, 2_000)),
        1e9 + np.arange(5),
    ],
    ids=["two values", "rare", "rounding", "far but told apart", "many scales", "large"],
)
def test_values_of_many_sizes_are_no_codes(sample: list[float]) -> None:
    values = NumericFit.fit(feature("standardise"), np.array(sample, dtype=np.float64)).apply(
        feature("standardise"), np.array(sample, dtype=np.float64)
    )
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


def test_a_distance_that_no_number_of_32_bits_holds_is_named() -> None:
    chunk = Chunk(pl.DataFrame({"x": [1.0, 2.0]}), "log.csv", 41)
    check_range(chunk, "x", np.array([np.nan, 3e38]))
    with pytest.raises(
        UnimixerError, match=r"^log\.csv, row 42: x=2\.0 is so far from the values of the training part"
    ):
        check_range(chunk, "x", np.array([np.nan, -4e38]))


@pytest.mark.parametrize("transform", ["none", "log", "standardise", "log_standardise", "bucketise"])
def test_a_boolean_is_a_number_where_the_training_part_has_0_and_1_alone(transform: str) -> None:
    one = feature(transform)
    for sample in ([0.0, 1.0, 1.0, 0.0, 1.0], [1.0] * 3, [0.0] * 3):
        assert NumericFit.fit(one, np.array(sample)).may_be_boolean(one)
    counts = NumericFit.fit(one, np.array([0.0, 1.0, 2.0, 7.0, 30.0]))
    for values in ([True, None], ["3", "true"]):
        chunk = Chunk(pl.DataFrame({"x": values}), "rows")
        with pytest.raises(UnimixerError, match=r"^rows, row [12]: x=.* is (a boolean, but|not a number)"):
            counts.read(one, chunk)
