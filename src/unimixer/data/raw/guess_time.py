"""How raw values tell a time, in the words of ``keys.time_format``: a calendar before an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from unimixer.data.time_format import EPOCH_UNITS

EPOCHS = tuple((unit, 10**18 // nanoseconds) for unit, nanoseconds in EPOCH_UNITS.items())
"""Unit of a number, and its size a generation ago; from half of that to four times that is a date from 1985 to 2096."""
YEARS = (1990, 2100)
"""A calendar of other years is no time of an impression."""
DIGITS = {
    "%Y%m%d": r"^(\d{4})(\d\d)(\d\d)$",
    "%Y%m%d%H": r"^(\d{4})(\d\d)(\d\d)(\d\d)$",
    "%Y%m%d%H%M": r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)$",
    "%Y%m%d%H%M%S": r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$",
    "%y%m%d%H": r"^(\d\d)(\d\d)(\d\d)(\d\d)$",
}
"""Calendars of digits alone, the likeliest first."""
ISO = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?\s?(Z|z|[+-]\d\d(:?\d\d)?)?$"
FORMATS = (
    *("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m-%d", "%Y/%m/%d"),
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y"),
    *("%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"),
    *("%d/%m/%Y", "%m/%d/%Y"),
)
"""Formats of text, tried in this order."""


@dataclass(frozen=True)
class TimeForm:
    """A form that all values have."""

    name: str
    others: tuple[str, ...] = ()
    """Forms that all values have too."""


def time_form(values: pl.Series) -> TimeForm | None:
    """The form of integers, numbers or texts, none of them missing; None where they are no times."""
    if not len(values):
        return None
    found = _digits(values) if values.dtype.is_integer() or values.dtype == pl.String else []
    if values.dtype.is_numeric():
        low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
        found += [unit for unit, size in EPOCHS if size * 0.5 <= low and high <= size * 4]
    elif values.dtype == pl.String and not found:
        found = [form for form in FORMATS if _are_times(values.str.to_datetime(form, strict=False))]
        if not found and values.str.contains(ISO).all() and _are_times(_iso(values)):
            found = ["iso"]
    return TimeForm(found[0], tuple(found[1:])) if found else None


def _digits(values: pl.Series) -> list[str]:
    texts = values.cast(pl.String)
    lengths = texts.str.len_bytes()
    if lengths.min() != lengths.max():
        return []
    return [
        form
        for form, pattern in DIGITS.items()
        if texts.str.contains(pattern).all() and _are_times(_calendar(texts, form, pattern))
    ]


def _calendar(texts: pl.Series, form: str, pattern: str) -> pl.Series:
    """Times of digits, with what the form leaves out at its beginning; null where a value does not fit."""
    count = pattern.count("(")
    year = "20${1}" if form.startswith("%y") else "${1}"
    parts = [year, *(f"${{{i}}}" if i <= count else "00" for i in range(2, 7))]
    spelled = texts.str.replace(pattern, "{}-{}-{} {}:{}:{}".format(*parts))
    return spelled.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)


def _iso(values: pl.Series) -> pl.Series:
    plain = values.str.slice(0, 16).str.replace("T", " ", literal=True)
    return plain.str.to_datetime("%Y-%m-%d %H:%M", strict=False)


def _are_times(times: pl.Series) -> bool:
    return times.null_count() == 0 and bool(times.dt.year().is_between(*YEARS).all())
