"""Raw values: what is one value, what is missing, and the row of every mistake."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from columns import chunk, message
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.label_settings import Label
from unimixer.data.raw import values
from unimixer.data.raw.tables import Chunk


def texts(*rows: Any, dtype: Any = None, missing: tuple[str, ...] = ("",)) -> list[str | None]:
    return values.as_text(chunk(*rows, dtype=dtype).frame["x"], missing).to_list()


# ---- texts ------------------------------------------------------------


def test_an_integer_a_whole_float_and_their_texts_are_one_value() -> None:
    assert texts(3, -1) == texts(3.0, -1.0) == texts("3", "-1") == texts(" 3.0 ", "-1.00") == ["3", "-1"]
    assert texts("3.0", dtype=pl.Categorical) == ["3"]


def test_true_is_one_and_false_is_zero() -> None:
    assert texts(True, False, None) == ["1", "0", None]


def test_other_numbers_and_texts_stay_as_they_are() -> None:
    assert texts(3.5, 1e20) == ["3.5", "1e+20"]  # beyond 64 bits, but a value
    assert texts("007", "3.", "x 1.0", "1.0.0") == ["007", "3.", "x 1.0", "1.0.0"]


def test_empty_null_and_nan_are_missing() -> None:
    assert texts("", "  ", None, "a") == [None, None, None, "a"]
    assert texts(float("nan"), None, 1.0) == [None, None, "1"]
    assert texts(None, None) == [None, None]


def test_missing_texts_are_canonical_too() -> None:
    assert texts("-1", "UNKNOWN", "x", missing=("-1.0", "UNKNOWN")) == [None, None, "x"]
    assert texts(-1, 0, missing=("-1.0",)) == [None, "0"]
    assert texts("", missing=()) == [None]


def test_a_text_for_missing_is_found_in_a_column_of_any_type() -> None:
    for column in (
        chunk(Decimal("-1.00"), Decimal("2.50")),
        chunk(-1.0, 2.5),
        chunk("-1.0", "2.5"),
        chunk("-1", "2.50"),
    ):
        assert values.text_column(column, "x", ("-1",)).is_null().to_list() == [True, False]
        assert values.text_column(column, "x", ("2.5",)).is_null().to_list() == [False, True]
    for column in (chunk(date(1900, 1, 1)), chunk(datetime(1900, 1, 1)), chunk("1900-01-01T00:00:00")):
        assert values.text_column(column, "x", ("1900-01-01",)).is_null().to_list() == [True]
    assert texts(True, False, missing=("false",)) == ["1", None]
    assert texts("0", "false", "1", missing=("false",)) == ["0", None, "1"]  # a zero is not the word


@pytest.mark.parametrize(("dtype", "bits"), [(pl.Float64, 53), (pl.Float32, 24)])
def test_a_key_that_lost_digits_in_a_float_is_refused(dtype: Any, bits: int) -> None:
    exact = chunk(2.0**bits - 1, None, float("nan"), dtype=dtype)
    assert values.key_column(exact, "x").to_list() == [str(2**bits - 1), None, None]
    error = message(values.key_column, chunk(17.0, -(2.0**bits), dtype=dtype), "x")
    assert error.startswith("log.csv, row 42: x=-")
    assert error.endswith(
        f"is a key of 2^{bits} or more in {dtype.__name__}, which has lost its last digits; "
        "write keys as integers or as text"
    )


def test_a_key_that_was_written_as_a_float_is_refused() -> None:
    for text in ("1.7000000000000002e+18", "1.23E+15", "2e+20"):
        error = message(values.key_column, chunk("17", None, text), "x")
        assert error.startswith(
            f"log.csv, row 43: x='{text}' is a key written as a float, which has lost its last digits"
        )
    assert values.key_column(chunk("+1", "1e10", "a+b", "5e+"), "x").to_list() == ["+1", "1e10", "a+b", "5e+"]


def test_a_key_is_one_text_in_any_type() -> None:
    for column in (
        chunk(17),
        chunk(17.0),
        chunk(Decimal("17")),
        chunk("17"),
        chunk(" 17.0 "),
        chunk(17, dtype=pl.UInt64),
    ):
        assert values.key_column(column, "x").to_list() == ["17"]
    huge = 2**64 - 1
    for column in (chunk(huge, dtype=pl.UInt64), chunk(str(huge)), chunk(Decimal(huge))):
        assert values.key_column(column, "x").to_list() == [str(huge)]


@given(st.integers(-(2**53), 2**53))
def test_any_whole_number_has_one_text(number: int) -> None:
    assert texts(number) == texts(float(number)) == texts(f"{number}.0") == [str(number)]


def test_a_list_is_no_value() -> None:
    error = message(values.text_column, chunk([1], [2]), "x")
    assert error.startswith("log.csv: column 'x' has type List(Int64), expected one value a row")


def test_a_missing_column_gets_the_nearest_name() -> None:
    frame = Chunk(pl.DataFrame({"user_id": [1], "tab": [1]}), "log.csv")
    assert message(values.column, frame, "userid") == "log.csv: missing column 'userid'; did you mean 'user_id'?"


# ---- numbers ------------------------------------------------------------


def test_numbers_of_any_type_are_read_and_missing_ones_are_nan() -> None:
    for column in (chunk("1.5", "", "2"), chunk(1.5, None, 2.0), chunk("1.50", None, " 2 ")):
        np.testing.assert_array_equal(values.as_number(column, "x"), [1.5, np.nan, 2])
    np.testing.assert_array_equal(values.as_number(chunk(True, False), "x"), [1, 0])
    assert np.isnan(values.as_number(chunk(None, None), "x")).all()


def test_true_and_false_are_numbers_in_any_case() -> None:
    for column in (chunk(True, False, None), chunk("true", "False", ""), chunk("TRUE", "0", None)):
        np.testing.assert_array_equal(values.as_number(column, "x"), [1, 0, np.nan])
    assert "x='yes' is not a number" in message(values.as_number, chunk("true", "yes"), "x")


def test_a_number_of_32_bits_is_the_number_that_its_text_has() -> None:
    written = ["0.1", "4.1", "-1e-20", "16777217", "3.4e38", ""]
    narrow = pl.Series("x", written).cast(pl.Float32, strict=False)
    expected = values.as_number(chunk("0.1", "4.1", "-1e-20", "16777216", "3.4e38", ""), "x")
    np.testing.assert_array_equal(values.as_number(Chunk(narrow.to_frame(), "log.parquet"), "x"), expected)
    liked = Label(name="x", threshold=4.1)
    for column in (chunk("4.1", "4.0"), chunk(4.1, 4.0), chunk(4.1, 4.0, dtype=pl.Float32)):
        assert values.as_label(column, liked).tolist() == [1, 0]


def test_a_code_for_missing_is_found_whatever_its_form() -> None:
    for column in (chunk("-999", "4"), chunk(-999, 4), chunk(-999.0, 4.0), chunk("-999.000", "4")):
        np.testing.assert_array_equal(values.as_number(column, "x", ("", "-999")), [np.nan, 4])
        np.testing.assert_array_equal(values.as_number(column, "x", ("-999.0", "NA")), [np.nan, 4])


def test_a_wrong_number_is_named_with_file_row_and_way_out() -> None:
    assert message(values.as_number, chunk("1", "", "1,5"), "x") == (
        "log.csv, row 43: x='1,5' is not a number; correct the row, or list the text under 'missing' of the feature"
    )
    for column in (chunk("1", "1.7976931348623157e308"), chunk(1.0, 1e300), chunk("1", "-4e38")):
        error = message(values.as_number, column, "x")
        assert error.startswith("log.csv, row 42: x=")
        assert "is beyond 3.4e38, the largest number of 32 bits; correct the row, or leave the value empty" in error
    assert values.as_number(chunk(-3.4e38), "x").tolist() == [-3.4e38]
    assert "log.csv, row 42: x=inf is infinite" in message(values.as_number, chunk(1.0, float("inf")), "x")
    assert "has type List(Int64), expected numbers" in message(values.as_number, chunk([1]), "x")


# ---- labels and weights ------------------------------------------------------------


def test_a_label_is_zero_or_one() -> None:
    for column in (chunk("1", "0"), chunk(1, 0), chunk(1.0, 0.0), chunk(True, False), chunk("True", "false")):
        assert values.as_label(column, Label(name="x")).tolist() == [1, 0]
    error = message(values.as_label, chunk(0, 1, 2), Label(name="click", source="x"))
    assert error.startswith("log.csv, row 43: x=2 is not 0 or 1; give label 'click' a threshold")


def test_a_graded_outcome_is_a_label_from_its_threshold_on() -> None:
    column = chunk("9.99", "10", "11")
    assert values.as_label(column, Label(name="x", threshold=10)).tolist() == [0, 1, 1]


def test_a_label_that_is_missing_or_no_number_is_named() -> None:
    assert "log.csv, row 42: x=None is missing" in message(values.as_label, chunk(1, None), Label(name="x"))
    error = message(values.as_label, chunk("1", "yes"), Label(name="x"))
    assert error == "log.csv, row 42: x='yes' is not a number; a label is 0 or 1, or a number with a threshold"


def test_a_soft_label_is_a_probability_of_32_bits() -> None:
    soft = Label(name="p", source="x", soft=True)
    for column in (chunk("0.1", "1", "0"), chunk(0.1, 1.0, 0.0), chunk(0.1, 1.0, 0.0, dtype=pl.Float32)):
        labels = values.as_label(column, soft)
        assert labels.dtype == np.float32
        assert labels.tolist() == [np.float32(0.1), 1, 0]
    for bad in (1.0000001, -1e-9):
        error = message(values.as_label, chunk(0.5, bad), soft)
        assert error == f"log.csv, row 42: x={bad} is not a probability; soft label 'p' holds numbers from 0 to 1"
    for bad in (None, float("nan")):
        assert "is missing, but a label must be known" in message(values.as_label, chunk(0.5, bad), soft)
    error = message(values.as_label, chunk("1", "yes"), soft)
    assert error == "log.csv, row 42: x='yes' is not a number; a soft label is a number from 0 to 1"


def test_a_weight_is_zero_or_more() -> None:
    assert values.as_weight(chunk("0", "2.5"), "x").tolist() == [0, 2.5]
    for bad in (-1.0, None):
        assert "log.csv, row 42" in message(values.as_weight, chunk(1.0, bad), "x")
