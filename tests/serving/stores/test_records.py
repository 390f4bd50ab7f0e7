"""JSON values as columns: what fits is kept as it is, everything else is one sentence."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimixer.errors import UnimixerError
from unimixer.serving.stores.base import ANY_EVENT, Event, FeatureStore
from unimixer.serving.stores.records import (
    MAX_KEY,
    MAX_LIST,
    MAX_TEXT,
    canonical,
    check_key,
    check_value,
    fit_columns,
    frame_of,
    series_of,
)

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.text(st.characters(), max_size=3),
)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
)
COLUMNS = ["null", "text", "integer", "number", "boolean", "list of null", "list of text", "list of integer"]


@given(st.lists(JSON, max_size=6))
@settings(max_examples=400, deadline=None)
def test_a_column_of_any_values_is_made_whole_or_refused(values: list[Any]) -> None:
    with suppress(UnimixerError):
        found = series_of("a", values)
        assert [value is None for value in found] == [value is None for value in values]  # nothing got lost


@given(
    st.dictionaries(st.sampled_from("ab"), st.sampled_from(COLUMNS)),
    st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_rows_of_any_values_fit_the_columns_or_are_refused(known: dict[str, str], rows: list[dict[str, Any]]) -> None:
    with suppress(UnimixerError):
        columns, fitted = fit_columns(known, rows, where="items")
        frame = frame_of(fitted, columns)
        for name in columns:
            assert [v is None for v in frame[name]] == [row.get(name) is None for row in rows]


@given(JSON)
def test_any_value_is_a_value_or_refused(value: Any) -> None:
    for check in (check_value, check_key):
        with suppress(UnimixerError):
            check(value, "here")
    with suppress(UnimixerError):
        assert len(canonical([value])) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [None, ["a"], None, "b"],
            "items, row 2: tags is a list, but in row 4 it is a single value; send lists in all rows",
        ),
        ([1.5, []], "items, row 2: tags is a list, but in row 1 it is a single value"),
        ([1, 2**70], "items, row 2: tags: the integer does not fit 64 bits; send large keys as text"),
        ([{"a": 1}, "b"], "items, row 1: tags: expected a single value or a list of single values"),
    ],
)
def test_a_column_that_does_not_fit_names_its_rows(values: list[Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        series_of("tags", values, "items")


def test_a_column_has_the_type_that_all_of_its_values_have() -> None:
    assert series_of("a", [1, None, 2.5]).to_list() == [1.0, None, 2.5]
    assert series_of("a", [1, "x", None, 2.0]).to_list() == ["1", "x", None, "2"]
    assert series_of("a", [[1], None, [], [2.5]]).to_list() == [[1.0], None, [], [2.5]]
    assert series_of("a", [None]).dtype == pl.Null
    assert series_of("a", [3], "user", [7]).to_list() == [3]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * (MAX_TEXT + 1), "here: the text has 100,001 characters, at most 100,000 are allowed"),
        ([1] * (MAX_LIST + 1), "here: the list has 10,001 entries, at most 10,000 are allowed"),
        (["a", "x" * (MAX_TEXT + 1)], "here: the text has 100,001 characters"),
    ],
)
def test_texts_and_lists_have_a_limit(value: Any, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        check_value(value, "here")
    check_value("x" * MAX_TEXT, "here")
    check_value([1] * MAX_LIST, "here")


def test_keys_have_a_limit_wherever_they_come_in(store: FeatureStore) -> None:
    long, message = "k" * (MAX_KEY + 1), "the key has 1,001 characters, at most 1,000 are allowed"
    with pytest.raises(UnimixerError, match=f"user: {message}"):
        check_key(long, "user")
    with pytest.raises(UnimixerError, match=f"items, row 2: item_id: {message}"):
        store.put_items("item_id", [{"item_id": "a"}, {"item_id": long}])
    for event in (Event(long, "i", 5, ANY_EVENT), Event("u", long, 5, ANY_EVENT)):
        with pytest.raises(UnimixerError, match=f"events, row 2: {message}"):
            store.append_events([Event("u", "i", 5, ANY_EVENT), event])
    assert store.counts() == {"users": 0, "items": 0, "events": 0}
    check_key(long[1:], "user")
    store.put_items("item_id", [{"item_id": long[1:]}])
    assert store.items([long[1:]]).keys() == {long[1:]}
