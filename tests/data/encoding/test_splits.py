"""Splits: by time in the log's zone, unless a random one is asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_schema

from unimixer.data.encoding.splits import Sample, Splitter
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError

DATES = {"by": "date", "validation": "2022-05-05", "test": "2022-05-06"}
RANDOM = {"by": "random", "validation": 0.2, "test": 0.3}


def millis(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


def splitter(split: dict[str, Any], times: list[float] | None = None, **keys: Any) -> Splitter:
    schema = toy_schema(split=split, histories=[], features=toy_schema().model_dump()["features"][:1], keys=keys)
    return Splitter.fit(schema, None if times is None else np.array(times))


def test_a_day_begins_in_the_zone_of_the_log() -> None:
    times = np.array([millis(2022, 5, 4, 15, 59), millis(2022, 5, 4, 23, 30), millis(2022, 5, 5, 23, 30)])
    keys = {"time": "t", "user": "user_id"}
    assert splitter(DATES, **keys, timezone="UTC")(times, 0).tolist() == [0, 0, 1]
    # 23:30 UTC of the 4th is 7:30 of the 5th in Shanghai
    assert splitter(DATES, **keys, timezone="Asia/Shanghai")(times, 0).tolist() == [0, 1, 2]


def test_the_border_belongs_to_the_later_part() -> None:
    by_date = splitter(DATES, time="t")
    border = millis(2022, 5, 5)
    assert by_date(np.array([border - 1, border, border + 86_400_000]), 0).tolist() == [0, 1, 2]


def test_quantiles_of_time_share_the_log_out() -> None:
    by_quantile = splitter({"by": "quantile", "validation": 0.5, "test": 0.75}, [float(t) for t in range(101)])
    parts = by_quantile(np.arange(101), 0)
    assert np.bincount(parts).tolist() == [50, 25, 26]
    assert (np.diff(parts) >= 0).all()


@given(st.integers(1, 400), st.integers(0, 5))
def test_a_random_split_gives_a_row_the_same_part_at_any_chunk_size(size: int, seed: int) -> None:
    split = splitter({**RANDOM, "seed": seed})
    times = np.zeros(400, dtype=np.int64)
    whole = split(times, 0)
    pieces = [split(times[start : start + size], start) for start in range(0, 400, size)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_random_split_has_the_shares_that_were_asked_for_and_depends_on_its_seed() -> None:
    times = np.zeros(100_000, dtype=np.int64)
    parts = splitter(RANDOM)(times, 0)
    np.testing.assert_allclose(np.bincount(parts) / 100_000, [0.5, 0.2, 0.3], atol=0.005)  # 3 standard deviations
    other = splitter({**RANDOM, "seed": 1})(times, 0)
    np.testing.assert_allclose((parts == other).mean(), 0.25 + 0.04 + 0.09, atol=0.005)


@pytest.mark.parametrize(
    ("split", "times", "keys", "message"),
    [
        (DATES, None, {}, "split by date needs keys.time; without it use {by: quantile}"),
        ({**DATES, "test": "2022-05-05"}, None, {"time": "t"}, "validation=2022-05-05 must be before test=2022-05-05"),
        ({"by": "quantile", "validation": 0.9, "test": 0.8}, [1.0], {}, "validation=0.9 must be less than test=0.8"),
        (
            {"by": "quantile"},
            [0.0] * 9,
            {"time": "t"},
            r"the quantiles 0.8 and 0.9 of time are both 1970-01-01 00:00 \(UTC\); choose others",
        ),
        ({"by": "quantile"}, [], {}, "toy: the log has no rows"),
        ({**RANDOM, "validation": 0.7}, None, {}, "validation . test must leave a part for training"),
    ],
)
def test_a_split_that_cannot_be_is_named(
    split: dict[str, Any], times: list[float] | None, keys: dict[str, str], message: str
) -> None:
    with pytest.raises(UnimixerError, match=message):
        splitter(split, times, **keys)


def named(*parts: str | None) -> Chunk:
    return Chunk(pl.DataFrame({"part": pl.Series(parts, dtype=pl.String)}), "log.csv", 11)


def test_a_column_names_the_part_of_a_row_and_an_empty_value_is_no_part() -> None:
    split = splitter({"by": "column", "column": "part"}, time="t")
    parts = split.assign(named("test", "train", None, "", "validation"), np.zeros(5, dtype=np.int64), 0)
    assert parts.tolist() == [2, 0, 3, 3, 1]


def test_a_share_of_the_training_rows_validates_whatever_the_chunks() -> None:
    split = splitter({"by": "column", "column": "part", "validation": 0.25}, time="t")
    chunk, times = named(*["train"] * 2_000, "test"), np.zeros(2_001, dtype=np.int64)
    parts = split.assign(chunk, times, 7)
    assert parts[-1] == 2
    np.testing.assert_allclose((parts == 1).mean(), 0.25, atol=0.04)  # 4 standard deviations
    later = split.assign(replace(chunk, frame=chunk.frame[500:]), times[500:], 507)
    np.testing.assert_array_equal(later, parts[500:])


def test_another_word_for_a_part_is_named_with_its_row() -> None:
    split = splitter({"by": "column", "column": "part"}, time="t")
    with pytest.raises(UnimixerError, match=r"log.csv, row 12: part='valid' is not train, validation or test; leave"):
        split.assign(named("train", "valid"), np.zeros(2, dtype=np.int64), 0)
    share = splitter({"by": "column", "column": "part", "validation": 0.1}, time="t")
    with pytest.raises(UnimixerError, match=r"row 11: part='validation', but split.validation=0.1 takes a share"):
        share.assign(named("validation"), np.zeros(1, dtype=np.int64), 0)


def test_an_empty_part_of_a_named_split_is_told_by_its_column() -> None:
    schema = toy_schema(split={"by": "column", "column": "part"})
    with pytest.raises(UnimixerError, match=r"no row has 'validation' in column 'part'; correct the column, or take a"):
        Splitter().check([3, 0, 2], (0, 1), schema)


def test_an_empty_part_is_named_with_the_span_of_the_log_in_its_zone() -> None:
    span = (millis(2022, 5, 4, 23, 30), millis(2022, 5, 6))
    with pytest.raises(UnimixerError) as error:
        Splitter().check([3, 0, 2], span, toy_schema())
    assert str(error.value) == (
        "toy: the validation part is empty: the log goes from 2022-05-05 07:30 (Asia/Shanghai) to "
        "2022-05-06 08:00 (Asia/Shanghai); change 'split' in the schema"
    )
    with pytest.raises(UnimixerError, match="toy: the log has no rows"):
        Splitter().check([0, 0, 0], (np.inf, -np.inf), toy_schema())


def test_a_short_stream_is_its_own_sample_and_nan_is_left_out() -> None:
    sample = Sample()
    sample.add(np.array([3.0, np.nan, 1.0]), np.arange(3))
    sample.add(np.array([2.0]), np.array([3]))
    assert sample.values.tolist() == [3, 1, 2]


@given(st.integers(1, 60))
def test_a_sample_does_not_depend_on_the_chunks(size: int) -> None:
    stream = np.arange(60, dtype=np.float64)
    whole, pieces = Sample(size=10), Sample(size=10)
    whole.add(stream, np.arange(60))
    for start in range(0, 60, size):
        rows = np.arange(60)[start : start + size]
        pieces.add(stream[rows], rows)
    assert whole.values.tolist() == pieces.values.tolist()
    assert len(whole.values) == 10


def test_a_sample_of_a_long_stream_is_uniform() -> None:
    sample = Sample(size=2_000)
    for start in range(0, 20_000, 1_000):
        rows = np.arange(start, start + 1_000)
        sample.add(rows.astype(np.float64), rows)
    counts = np.histogram(sample.values, bins=4, range=(0, 20_000))[0]
    assert (abs(counts - 500) < 70).all()  # 3.6 standard deviations of a quarter
