"""Profiles of columns: kinds, missing values, units of time, separators."""

from __future__ import annotations

import polars as pl
import pytest

from unimixer.data.raw.profile import profile


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([1_650_812_741], "s"),
        ([1_650_812_741_436], "ms"),
        ([1_650_812_741_436_000], "us"),
        (["1650812741436", "1650812741437"], "ms"),
        (["2022-04-25 12:30:00"], "%Y-%m-%d %H:%M:%S"),
        (["2022-04-25"], "%Y-%m-%d"),
        ([20220425], "%Y%m%d"),
        ([12345], None),
        (["Lyon"], None),
    ],
)
def test_times_are_known_by_their_size_or_their_form(values: list[object], form: str | None) -> None:
    time = profile(pl.Series("t", values)).time
    assert (time and time.name) == form


@pytest.mark.parametrize(
    ("values", "kind", "missing"),
    [
        (["1", "2", ""], "integer", 1 / 3),
        (["1.0", "2.0"], "integer", 0.0),
        (["1.5", "nan"], "number", 0.5),
        (["a", None, "NULL", "b"], "text", 0.5),
        ([True, False], "boolean", 0.0),
        ([[1], None], "list", 0.5),
        ([None, None], "other", 1.0),
    ],
)
def test_a_profile_types_text_and_counts_what_is_missing(values: list[object], kind: str, missing: float) -> None:
    column = profile(pl.Series("c", values))
    assert column.kind == kind
    assert column.missing == pytest.approx(missing)


def test_ranges_are_no_lists() -> None:
    assert profile(pl.Series("range", ["[1,5)", "[5,10)", "[1,10)"] * 5)).separator is None
    assert profile(pl.Series("tag", ["1,2", "2,3", "1,3", "1,2,3", "4"] * 5)).separator == ","
