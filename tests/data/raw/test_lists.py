"""Raw lists and vectors: which values they hold, whatever the way in which they are written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from columns import chunk, message
from hypothesis import given, settings
from hypothesis import strategies as st

from unimixer.data.raw import lists
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature


def sequence(**options: Any) -> Feature:
    return Feature(name="x", kind="sequence", domain="context", **{"max_length": 2, **options})


EXPECTED = [["2", "3"], [], [], ["4"]]


@pytest.mark.parametrize(
    ("column", "separator"),
    [
        (chunk([1, 2, 3], [], None, [None, 4]), None),
        (chunk([1.0, 2.0, 3.0], [], None, [float("nan"), 4.0]), None),
        (chunk(["1", "2", "3.0"], [""], None, ["4"]), None),
        (chunk("1|2|3", "", None, "|4"), "|"),
        (chunk("1, 2, 3", " ", None, "4"), ","),
    ],
    ids=["integers", "floats", "texts", "bars", "commas"],
)
def test_the_last_values_of_a_list_are_kept_and_missing_ones_left_out(column: Chunk, separator: str | None) -> None:
    assert lists.as_lists(column, sequence(separator=separator)).to_list() == EXPECTED


@pytest.mark.parametrize(
    ("column", "separator"),
    [(chunk([None, 1, 2, 3], [], None, [4]), None), (chunk("|1|2|3", "", None, "4"), "|")],
    ids=["lists", "text"],
)
def test_the_first_values_of_a_list_are_kept_where_the_schema_says_so(column: Chunk, separator: str | None) -> None:
    found = lists.as_lists(column, sequence(separator=separator, keep="first"))
    assert found.to_list() == [["1", "2"], [], [], ["4"]]


@pytest.mark.parametrize(
    "column",
    [
        chunk([], None, dtype=pl.List(pl.Int64)),
        chunk(None, None),
        chunk(None, None, dtype=pl.Array(pl.Int64, 2)),
    ],
    ids=["empty", "null", "array"],
)
def test_a_column_without_any_value_gives_empty_lists(column: Chunk) -> None:
    assert lists.as_lists(column, sequence()).to_list() == [[], []]


def test_no_rows_give_no_lists() -> None:
    found = lists.as_lists(chunk(dtype=pl.List(pl.Int64)), sequence())
    assert found.to_list() == []
    assert found.dtype == pl.List(pl.String)


def test_missing_texts_are_left_out_of_lists_before_they_are_cut() -> None:
    column = chunk("a|b|NA|NA", "NA")
    assert lists.as_lists(column, sequence(separator="|", missing=("NA",))).to_list() == [["a", "b"], []]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.integers(0, 3), max_size=5), min_size=1, max_size=8))
def test_lists_are_what_a_loop_makes_of_them(rows: list[list[int | None] | None]) -> None:
    expected = [[str(v) for v in row or [] if v is not None][-2:] for row in rows]
    assert lists.as_lists(chunk(*rows, dtype=pl.List(pl.Int64)), sequence()).to_list() == expected


def test_a_sequence_of_another_type_is_named() -> None:
    error = message(lists.as_lists, chunk("1|2"), sequence())
    assert error == ("log.csv: sequence 'x' reads column 'x' of type String; give it a separator, or write lists")
    assert "expected lists of plain values" in message(lists.as_lists, chunk([[1]]), sequence())


VECTOR = Feature(name="v", kind="embedding", domain="item", source="x", width=2)


def test_vectors_come_as_rows_and_a_missing_one_is_nan() -> None:
    for column in (chunk([1.0, 2.0], None), chunk([1, 2], None), chunk([1, 2], None, dtype=pl.Array(pl.Float32, 2))):
        np.testing.assert_array_equal(lists.as_vectors(column, VECTOR), [[1, 2], [np.nan, np.nan]])
    assert np.isnan(lists.as_vectors(chunk(None, None), VECTOR)).all()
    assert lists.as_vectors(chunk(dtype=pl.List(pl.Float64)), VECTOR).shape == (0, 2)


def test_a_vector_of_another_width_is_named() -> None:
    error = message(lists.as_vectors, chunk([1.0, 2.0], [1.0]), VECTOR)
    way_out = "feature 'v' declares width=2; leave the value empty in rows without a vector"
    assert error == f"log.csv, row 42: x=[1.0] is not a vector of 2 numbers; {way_out}"


def test_a_vector_with_a_hole_is_named() -> None:
    for hole in (None, float("nan"), float("inf"), 1e300):
        error = message(lists.as_vectors, chunk([1.0, 2.0], [1.0, hole]), VECTOR)
        assert "row 42" in error
        assert "holds a number that is missing or infinite; leave out the whole vector" in error


def test_vectors_of_text_are_refused() -> None:
    for column in (chunk("1 2"), chunk(["1", "2"])):
        assert "expected lists of 2 numbers" in message(lists.as_vectors, column, VECTOR)


# ---- lists that are written in text ------------------------------------------------------------


@pytest.mark.parametrize("separator", [None, ",", "|"])
@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.none() | st.integers(-9, 9), max_size=3)
        | st.lists(st.none() | st.text(max_size=4).filter(str.isprintable), max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_a_written_list_is_the_list(separator: str | None, rows: list[list[Any]]) -> None:
    texts = [[None if value is None else str(value) for value in row] for row in rows]
    typed = lists.as_lists(chunk(*texts, dtype=pl.List(pl.String)), sequence()).to_list()
    for write in (json.dumps, lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":")), repr):
        column = chunk(*map(write, rows), dtype=pl.String)
        assert lists.as_lists(column, sequence(separator=separator)).to_list() == typed


def test_brackets_make_a_list_and_anything_else_is_separated() -> None:
    column = chunk(" [3, 17.0] ", "3,17", "[]", "", None, "17", "[ 3 ]", "[null, 3, NaN]")
    expected = [["3", "17"], ["3", "17"], [], [], [], ["17"], ["3"], ["3"]]
    assert lists.as_lists(column, sequence(separator=",")).to_list() == expected
    column = chunk("[a,b]", "['a', 'it\\'s', \"x, y\"]", "[sale] a|b")
    expected = [["a", "b"], ["it's", "x, y"], ["[sale] a", "b"]]
    assert lists.as_lists(column, sequence(separator="|")).to_list() == expected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[3, 17", "is a list without one of its brackets"),
        ("17, 5]", "is a list without one of its brackets"),
        ("[[3], [17]]", "is not one list of plain values"),
        ('[{"a": 1}]', "is not one list of plain values"),
        ("[3 17 5]", "is not one list of plain values"),
        ("['a', 'b]", "is not one list of plain values"),
        ("[3,,5]", "is not one list of plain values"),
    ],
)
def test_a_list_that_is_not_plain_is_named(text: str, rule: str) -> None:
    for separator in (None, ","):
        error = message(lists.as_lists, chunk("[1]", text), sequence(separator=separator))
        assert error.startswith(f"log.csv, row 42: x={text!r} {rule}; write lists of plain values, for example [3, 17]")
