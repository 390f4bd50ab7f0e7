"""JSON values as columns: no value becomes another on the way."""

from __future__ import annotations

from decimal import Decimal

import polars as pl
import pytest

from unimixer.data.raw.values import as_text
from unimixer.errors import UnimixerError
from unimixer.serving.stores.records import canonical, fit_columns, frame_of, series_of, typed_table

BIG = 2**53 + 1


def test_large_integers_beside_decimals_keep_their_digits() -> None:
    assert as_text(series_of("x", [BIG, 1.5, None, 3])).to_list() == [str(BIG), "1.5", None, "3"]
    assert series_of("x", [BIG, None]).to_list() == [BIG, None]
    assert series_of("x", [7, 1.5]).to_list() == [7.0, 1.5]


def test_a_large_integer_is_not_written_to_a_column_of_floats() -> None:
    with pytest.raises(
        UnimixerError, match=rf"items, row 2: x={BIG} loses its last digits in the column, which holds floats"
    ):
        fit_columns({"x": "number"}, [{"x": 7}, {"x": BIG}], where="items")
    assert fit_columns({"x": "integer"}, [{"x": BIG}], where="items") == ({"x": "integer"}, [{"x": BIG}])


def test_keys_of_any_json_type_are_one_key() -> None:
    assert canonical([17, "17", "17.0", " 17 ", None, "017"]) == ["17", "17", "17", "17", None, "017"]


def test_kept_rows_give_back_the_texts_of_their_values() -> None:
    frame = pl.DataFrame({"a": [Decimal("3.50")], "b": [2**64 - 1], "c": [True]}, schema_overrides={"b": pl.UInt64})
    columns, typed = typed_table(frame)
    again = frame_of(typed.to_dicts(), columns)
    for name in frame.columns:
        assert as_text(again[name]).to_list() == as_text(frame[name]).to_list()


def test_booleans_and_other_values_are_no_column() -> None:
    assert series_of("x", [True, None, False]).to_list() == [True, None, False]
    with pytest.raises(
        UnimixerError, match=r"^items, row 2: x is a boolean, but in row 1 it is none; send booleans in all"
    ):
        series_of("x", [1, True], "items")
