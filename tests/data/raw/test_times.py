"""Raw times: one moment in any form, and the row of every mistake."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl
import pytest
from columns import FIRST_ROW, chunk, message
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unimixer.data.raw import times
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Keys

NOON = datetime(2022, 5, 4, 12, 0, 0, 5_000, tzinfo=UTC)
MILLIS = 1_651_665_600_005


@pytest.mark.parametrize(
    ("column", "form"),
    [
        (chunk(MILLIS), "ms"),
        (chunk(str(MILLIS)), "ms"),
        (chunk(MILLIS / 1000), "s"),
        (chunk(MILLIS * 1000 + 999), "us"),
        (chunk(MILLIS * 1_000_000 + 999_999), "ns"),
        (chunk(str(MILLIS * 1_000_000)), "ns"),
        (chunk(NOON), "ms"),
        (chunk(datetime(2022, 5, 4, 20, 0, 0, 5_000)), "ms"),
        (chunk("2022-05-04 20:00:00.005"), "%Y-%m-%d %H:%M:%S%.f"),
        (chunk("2022-05-04T14:00:00.005+0200"), "%Y-%m-%dT%H:%M:%S%.f%z"),
    ],
    ids=[
        "ms",
        "text",
        "s",
        "us",
        "ns",
        "text of ns",
        "datetime with zone",
        "datetime",
        "text of the zone",
        "text with its own zone",
    ],
)
def test_one_time_in_any_form_is_the_same_millisecond(column: Chunk, form: str) -> None:
    keys = Keys(time="x", time_format=form, timezone="Asia/Shanghai")
    assert times.as_time(column, keys).tolist() == [MILLIS]


@settings(max_examples=50, deadline=None)
@given(st.integers(631_152_000_000, 4_102_444_799_999))
def test_no_millisecond_is_lost_to_rounding(millis: int) -> None:
    numbers: dict[str, Any] = {"s": millis / 1000, "us": millis * 1000, "ms": millis, "ns": millis * 1_000_000}
    for unit, number in numbers.items():
        assert times.as_time(chunk(number), Keys(time="x", time_format=unit)).tolist() == [millis]


def test_hours_without_minutes_and_days_without_hours_are_times() -> None:
    keys = Keys(time="x", time_format="%y%m%d%H", timezone="UTC")
    expected = int(datetime(2014, 10, 21, 13, tzinfo=UTC).timestamp() * 1000)
    assert times.as_time(chunk(14102113), keys).tolist() == [expected]
    for column, form in ((chunk("2014-10-21"), "%Y-%m-%d"), (chunk(date(2014, 10, 21)), "ms")):
        assert times.as_time(column, Keys(time="x", time_format=form)).tolist() == [expected - 13 * 3_600_000]


def test_without_a_time_column_the_row_is_the_time() -> None:
    assert times.as_time(chunk("a", "b"), Keys()).tolist() == [FIRST_ROW - 1, FIRST_ROW]
    assert times.as_time(chunk("a", "b"), Keys(), first_row=1000).tolist() == [1000, 1001]


@pytest.mark.parametrize(
    ("column", "keys", "expected"),
    [
        (chunk("1", "x"), {}, "log.csv, row 42: x='x' is not a number; every impression needs its time"),
        (chunk(1, None), {}, "log.csv, row 42: x=None is not a time in ms; every impression needs its time"),
        (chunk("2022-01-01", "1 May"), {"time_format": "%Y-%m-%d"}, "row 42: x='1 May' is not a time of the form"),
        (chunk(1.7e12, dtype=pl.Float32), {}, "row 41: x=1700000038912.0 is a time written as a float, which has lost"),
        (chunk("1700000000.5", "1.70000e+09"), {"time_format": "s"}, "row 42: x='1.70000e+09' is a time written as"),
        (chunk("1.700002939e+12", "1.70000E+12"), {}, "row 42: x='1.70000E+12' is a time written as a float"),
        (chunk("2022-01-01 5"), {"time_format": "%Y-%m-%d %M"}, "keys.time_format='%Y-%m-%d %M' is not a time format"),
        (chunk(NOON, None), {}, "log.csv, row 42: x=None is not a time"),
    ],
)
def test_a_wrong_time_is_named(column: Chunk, keys: dict[str, str], expected: str) -> None:
    assert expected in message(times.as_time, column, Keys(time="x", **keys))


def test_hour_and_weekday_are_those_of_the_zone() -> None:
    late = np.array([int(datetime(2022, 5, 4, 23, 30, tzinfo=UTC).timestamp() * 1000)])  # a Wednesday
    assert times.time_part(late, "hour", "UTC").to_list() == ["23"]
    assert times.time_part(late, "weekday", "UTC").to_list() == ["3"]
    assert times.time_part(late, "hour", "Asia/Shanghai").to_list() == ["7"]
    assert times.time_part(late, "weekday", "Asia/Shanghai").to_list() == ["4"]


# ---- written times ------------------------------------------------------------

ZONED = ("2022-05-04T12:00:00.005Z", "2022-05-04 12:00:00.005999 Z", "2022-05-04t20:00:00,005+08:00")
ZONED += ("2022-05-04T17:30:00.005+0530", "2022-05-04 07:00:00.0050-05", "2022-05-04 20:00:00.005")


@pytest.mark.parametrize("text", ZONED)
def test_iso_times_are_moments_of_their_own_zone_and_else_of_the_log(text: str) -> None:
    keys = Keys(time="x", time_format="iso", timezone="Asia/Shanghai")
    assert times.as_time(chunk(text), keys).tolist() == [MILLIS]
    assert times.as_time(chunk(*ZONED), keys).tolist() == [MILLIS] * len(ZONED)


def test_an_iso_date_is_its_midnight_and_minutes_need_no_seconds() -> None:
    keys = Keys(time="x", time_format="iso", timezone="Asia/Shanghai")
    midnight = int(datetime(2022, 5, 3, 16, tzinfo=UTC).timestamp() * 1000)
    assert times.as_time(chunk("2022-05-04", "2022-05-03T16:00Z", "2022-05-04 00:00"), keys).tolist() == [midnight] * 3


@pytest.mark.parametrize(
    "text", ["2022-02-30", "2022-05-04T24:00:00", "2022-05-04T12:00:60", "2022-05-04T12", "04.05.2022", "1651665600"]
)
def test_what_is_no_iso_time_is_named(text: str) -> None:
    error = message(times.as_time, chunk("2022-05-04", text), Keys(time="x", time_format="iso"))
    assert error.startswith(f"log.csv, row 42: x='{text}' is not a time of the form 'iso'; every impression needs")


@settings(max_examples=50, deadline=None)
@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2068, 12, 31)),
    st.timedeltas(timedelta(hours=-14), timedelta(hours=14)),
    st.sampled_from(["T", " "]),
)
def test_iso_is_read_as_python_reads_it(naive: datetime, east: timedelta, between: str) -> None:
    aware = naive.replace(tzinfo=timezone(timedelta(minutes=east // timedelta(minutes=1))))
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    keys = Keys(time="x", time_format="iso", timezone="Asia/Shanghai")
    assert times.as_time(chunk(aware.isoformat(between)), keys).tolist() == [expected]


FORMATS = [
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S.%f%z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d %B %Y %I:%M:%S %p",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%Y-%j %H:%M",
    "%m/%d/%y %I %p",
    "%y%m%d%H",
    "%Y%m%d%H%M%S",
    "%d.%m.%Y",
]


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=50, deadline=None)
@given(moment=st.datetimes(datetime(1990, 1, 1), datetime(2068, 12, 31)), east=st.integers(-14 * 60, 14 * 60))
def test_a_strptime_format_is_read_as_python_reads_it(form: str, moment: datetime, east: int) -> None:
    text = moment.replace(tzinfo=timezone(timedelta(minutes=east))).strftime(form)
    read = datetime.strptime(text, form)
    if read.tzinfo is None:
        # a zone that is written out is UTC, any other time stands in the zone of the log, nine hours east of it
        hours = 0 if form.endswith(("Z", "UTC", "GMT")) else 9
        read = read.replace(tzinfo=timezone(timedelta(hours=hours)))
    expected = (read - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    keys = Keys(time="x", time_format=form, timezone="Asia/Tokyo")
    assert times.as_time(chunk(text), keys).tolist() == [expected]


@settings(max_examples=50, deadline=None)
@given(st.text("0123456789-:. TZ", max_size=24))
def test_a_text_that_python_refuses_is_refused_or_has_another_blank(text: str) -> None:
    form = "%Y-%m-%d %H:%M:%S"
    keys = Keys(time="x", time_format=form)
    try:
        expected = int(datetime.strptime(text.strip(), form).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        assert "log.csv, row 41" in message(times.as_time, chunk(text), keys)
    else:
        assert times.as_time(chunk(text), keys).tolist() == [expected]


def test_a_zone_in_the_format_is_the_zone_of_the_times() -> None:
    for form, hours in (("%Y-%m-%dT%H:%M:%S+08:00", 8), ("%Y-%m-%d %H:%M:%S -0500", -5), ("%Y-%m-%d %H UTC", 0)):
        text = datetime(2022, 5, 4, 12).strftime(form)
        expected = int(datetime(2022, 5, 4, 12, tzinfo=timezone(timedelta(hours=hours))).timestamp() * 1000)
        assert times.as_time(chunk(text), Keys(time="x", time_format=form, timezone="Asia/Tokyo")).tolist() == [
            expected
        ]


def test_digits_of_a_fraction_are_read_as_they_stand() -> None:
    for text, form in (
        ("2022-05-04 12:00:00.5", "%Y-%m-%d %H:%M:%S.%f"),
        ("2022-05-04 12:00:00,500", "%Y-%m-%d %H:%M:%S,%3f"),
        ("20220504120000500", "%Y%m%d%H%M%S%3f"),
    ):
        assert times.as_time(chunk(text), Keys(time="x", time_format=form)).tolist() == [MILLIS - 5 + 500]


def test_a_calendar_time_may_be_a_number() -> None:
    expected = int(datetime(2023, 11, 14, 22, tzinfo=UTC).timestamp() * 1000)
    keys = Keys(time="x", time_format="%Y%m%d%H")
    for column in (chunk(2023111422), chunk(2023111422.0), chunk("2023111422"), chunk("2023111422.0")):
        assert times.as_time(column, keys).tolist() == [expected]
    early = int(datetime(2005, 1, 1, 7, tzinfo=UTC).timestamp() * 1000)
    assert times.as_time(chunk(5010107), Keys(time="x", time_format="%y%m%d%H")).tolist() == [early]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("minutes", "time_format='minutes' is not a form of time; use s, ms, us, ns, iso, or a strptime format"),
        ("%Y-%m-%d %H:%M:%S,%f", "%f is understood after a point only; write %3f, %6f or %9f"),
        ("%Y-%m-%d %Z", "the directive %Z is not understood"),
        ("%s", "the directive %s is not understood"),
        ("%Y-%m-%d %I:%M", "%I and %p go together"),
        ("%H:%M", "has no year"),
    ],
)
def test_a_form_that_is_not_understood_is_refused_by_name_in_the_schema(form: str, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        Keys(time="x", time_format=form)


def test_an_hour_that_clocks_skip_is_named_and_of_one_shown_twice_the_first_is_taken() -> None:
    for form, text in (("iso", "2024-03-31T02:30:00"), ("%Y-%m-%d %H:%M:%S", "2024-03-31 02:30:00")):
        error = message(times.as_time, chunk(text), Keys(time="x", time_format=form, timezone="Europe/Berlin"))
        assert "is in the hour that the clocks of Europe/Berlin skip" in error
    twice = int(datetime(2024, 10, 27, 0, 30, tzinfo=UTC).timestamp() * 1000)
    for form, text in (("iso", "2024-10-27T02:30:00"), ("%Y-%m-%d %H:%M:%S", "2024-10-27 02:30:00")):
        assert times.as_time(chunk(text), Keys(time="x", time_format=form, timezone="Europe/Berlin")).tolist() == [
            twice
        ]


# ---- times in another unit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_651_665_600, "ms", "x=1651665600 is the time 1970-01-20 in ms, but 2022-05-04 in s"),
        (1_651_665_600_005, "us", "1970-01-20 in us, but 2022-05-04 in ms"),
        (1_651_665_600_005, "ns", "1970-01-01 in ns, but 2022-05-04 in ms"),
        (1_651_665_600_005_000, "ms", "is not a time in ms"),
        (20220504, "ms", "1970-01-01 in ms, but 2022-05-04 in %Y%m%d"),
        (202205041200, "ms", "1976-05-29 in ms, but 2022-05-04 in %Y%m%d%H%M"),
        (1_651_665_600_005, "s", "is not a time in s"),
    ],
)
def test_a_time_that_is_one_of_a_log_in_another_unit_only_is_refused(value: int, unit: str, expected: str) -> None:
    keys = Keys(time="x", time_format=unit)
    for column in (chunk(value), chunk(str(value)), chunk(float(value))):
        error = message(times.as_time, column, keys)
        assert error.startswith("log.csv, row 41: x=")
        assert expected.removeprefix("x=1651665600 ") in error
        assert "keys.time_format" in error


def test_a_number_that_is_a_time_in_no_unit_is_named_without_a_warning() -> None:
    for number in (1e300, 1.7e308, "1e308"):
        for unit in ("s", "ms", "us", "ns"):
            error = message(times.as_time, chunk(number), Keys(time="x", time_format=unit))
            assert f"is not a time in {unit}; every impression needs its time" in error


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_typed_time_that_was_made_from_another_unit_is_refused(unit: Any) -> None:
    made = pl.Series([MILLIS // 1000], dtype=pl.Int64).cast(pl.Datetime(unit))
    error = message(times.as_time, chunk(*made, dtype=pl.Datetime(unit)), Keys(time="x"))
    assert error.startswith("log.csv, row 41: x=datetime.datetime(1970, 1, ")
    assert f"in {unit}, but 2022-05-04 in s; convert the column from its own unit" in error
    born = chunk(datetime(1975, 3, 1, 7), dtype=pl.Datetime(unit))
    assert times.as_time(born, Keys(time="x")).tolist() == [162_889_200_000]


def test_one_row_in_another_unit_is_found_among_others() -> None:
    error = message(times.as_time, chunk(MILLIS, MILLIS // 1000, 0), Keys(time="x"))
    assert error.startswith("log.csv, row 42: x=1651665600 is the time 1970-01-20 in ms, but 2022-05-04 in s")


def test_a_small_clock_is_a_time_in_no_unit_and_is_taken() -> None:
    clock = [0, 1, 1000, 86_400_000, 20_220_504]
    assert times.as_time(chunk(*clock), Keys(time="x")).tolist() == clock
