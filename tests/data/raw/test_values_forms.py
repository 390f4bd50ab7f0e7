"""Forms of values: which texts are one value, and when texts are not taken for the same."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimixer.data.raw.values import Form, as_text, canonical, canonical_text, form_of


def form(*texts: str, typed: bool = False) -> str:
    return form_of(pl.Series(texts), typed=typed)


def ones(form: Form, *texts: str) -> list[str]:
    found = canonical(pl.Series(texts), form).to_list()
    assert found == [canonical_text(text, form) for text in texts]
    return found


def of_type(form: Form, *values: Any, dtype: Any = None) -> list[str]:
    return canonical(as_text(pl.Series(values, dtype=dtype)), form).to_list()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("true", "False"), "boolean"),
        (("1", "0", "TRUE"), "boolean"),
        (("1",), "boolean"),
        (("true", "yes"), "text"),
        (("1", "2", "-3"), "number"),
        (("3.50", "4.00", "1e2"), "number"),
        (("1.1", "1.10"), "text"),
        (("17", "017"), "text"),
        (("017",), "text"),
        (("1", "x"), "text"),
        (("2024-01-01", "2024-02-01T00:00:00Z"), "time"),
        (("2024-01-01", "2024-01-01 00:00:00"), "text"),
        ((), "text"),
    ],
)
def test_texts_are_a_form_where_all_are_and_no_two_become_one(texts: tuple[str, ...], expected: str) -> None:
    assert form_of(pl.Series(texts, dtype=pl.String), typed=False) == expected


def test_a_column_type_says_that_two_texts_are_one_value() -> None:
    assert form("3.5", "3.50", typed=True) == "number"
    assert form("2024-01-01", "2024-01-01 00:00:00", typed=True) == "time"
    assert form("3.5", "x", typed=True) == "text"


def test_a_number_has_one_text_and_keeps_every_digit() -> None:
    assert set(ones("number", "3.5", "3.50", "35e-1", "0.35E+1")) == {"3.5"}
    assert set(ones("number", "100", "100.0", "1e2", "1E+2", "100.")) == {"100"}
    assert ones("number", "-0", "-0.0", ".5", "1e-07", "12345678901234567890.10") == [
        *("0", "0", "0.5", "0.0000001", "12345678901234567890.1"),
    ]
    assert ones("number", "017", "1.2.3", "x", "1e999", "+5", "") == ["017", "1.2.3", "x", "1e999", "+5", ""]


@settings(max_examples=50, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_any_decimal_has_the_text_of_its_value(number: Decimal) -> None:
    text = canonical_text(str(number), "number")
    if abs(number.as_tuple().exponent) < 400:  # type: ignore[arg-type]
        assert Decimal(text) == number
        assert text == canonical_text(f"{number:f}", "number") == canonical_text(text, "number")


@settings(max_examples=50, deadline=None)
@given(st.floats(-(2.0**53), 2.0**53))
def test_a_float_column_and_any_writing_of_it_meet(number: float) -> None:
    assert of_type("number", number) == ones("number", repr(number)) == ones("number", f"{Decimal(repr(number)):f}")


def test_decimals_floats_and_integers_of_any_width_meet() -> None:
    for dtype in (pl.Float64, pl.Float32, pl.Decimal(10, 2), pl.Int8, pl.UInt64):
        assert of_type("number", 3, dtype=dtype) == ["3"]
    assert of_type("number", Decimal("3.50")) == of_type("number", 3.5, dtype=pl.Float32) == ["3.5"]
    assert of_type("number", 2**64 - 1, dtype=pl.UInt64) == [str(2**64 - 1)]


def test_truth_has_two_texts_in_any_case() -> None:
    assert ones("boolean", "true", "True", "TRUE", "1", "false", "0", "yes") == ["1", "1", "1", "1", "0", "0", "yes"]
    assert of_type("boolean", True, False) == ["1", "0"]


def test_a_day_and_its_midnight_are_one_value_in_any_type_and_writing() -> None:
    day, midnight = date(2024, 1, 1), datetime(2024, 1, 1)
    written = ["2024-01-01", "2024-01-01 00:00:00", "2024-01-01T00:00:00.000", "2024-01-01 00:00"]
    assert ones("time", *written) == ["2024-01-01"] * 4
    assert of_type("time", day) == ["2024-01-01"]
    for unit in ("ms", "us", "ns"):
        assert of_type("time", midnight, dtype=pl.Datetime(unit)) == ["2024-01-01"]


def test_a_moment_is_one_value_in_any_zone_and_none_without_a_zone() -> None:
    moment = datetime(2024, 1, 1, 7, 30, 0, 500_000, tzinfo=UTC)
    expected = "2024-01-01 07:30:00.5Z"
    written = [
        moment.isoformat(),
        "2024-01-01T07:30:00.5Z",
        "2024-01-01 15:30:00.500+0800",
        "2024-01-01 07:30:00.50 UTC",
    ]
    assert ones("time", *written) == [expected] * 4
    there = pl.Series([moment.astimezone(timezone(timedelta(hours=8)))]).dt.convert_time_zone("Asia/Shanghai")
    assert canonical(as_text(there), "time").to_list() == [expected]
    assert ones("time", "2024-01-01 07:30:00.5", "2024-02-30", "2024-01-01x") == [
        *("2024-01-01 07:30:00.5", "2024-02-30", "2024-01-01x"),
    ]


@pytest.mark.parametrize("form", ["boolean", "number", "time"])
@settings(max_examples=50, deadline=None)
@given(text=st.text("0123456789.eE+-TZtrufalse: ", max_size=20))
def test_a_canonical_text_is_its_own(form: Form, text: str) -> None:
    once = canonical_text(text, form)
    assert ones(form, text) == [once]
    assert canonical_text(once, form) == once
