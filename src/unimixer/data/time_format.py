"""Forms of written times: the strptime directives that are understood, and the form that all values share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

EPOCH_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Units of a time that is a number, in nanoseconds."""
ISO = "iso"
"""ISO 8601: a date, or a date and a time, with or without fraction and zone."""
FORMS = "s, ms, us, ns, iso, or a strptime format such as %Y-%m-%d %H:%M:%S"

_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2, "j": 3, "3f": 3, "6f": 6, "9f": 9, "%": 1}
_WORDS = ("b", "B", "a", "A", "p", "z", "G", "V", "u", ".f", ".3f", ".6f", ".9f")
_SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y"}
_DIRECTIVE = re.compile(r"%(\.?[369]?f|[^.369]|.)")
_ZONE = re.compile(r"%(?:[HMSTRp]|\.?[369]?f)\s?(Z|UTC|GMT|[+-]\d\d:?\d\d)$")
"""A zone that is written out behind the time of day."""


@dataclass(frozen=True)
class TimeFormat:
    """A strptime format as the parser takes it.

    Args:
        pattern: directives of the parser.
        own_zone: every text has a zone of its own.
        offset: minutes east of UTC where the format has a zone written out, such as Z.
        width: characters of a text where all have the same number, else None.
    """

    pattern: str
    own_zone: bool
    offset: int | None
    width: int | None


@cache
def read_format(form: str) -> TimeFormat:
    """Understand a strptime format, or raise ``ValueError`` with the directive that is not understood."""
    zone = _ZONE.search(form)
    pattern = re.sub(r"%([FTRD])", lambda directive: _SHORT[directive[1]], form).replace(".%f", "%.f")
    directives = _DIRECTIVE.findall(pattern)
    if not directives:
        raise ValueError(f"time_format={form!r} is not a form of time; use {FORMS}")
    for directive in directives:
        if directive == "f":
            raise ValueError(
                f"time_format={form!r}: %f is understood after a point only; write %3f, %6f or %9f for its digits"
            )
        if directive not in _WIDTHS and directive not in _WORDS:
            raise ValueError(f"time_format={form!r}: the directive %{directive} is not understood; use {FORMS}")
    if not {"Y", "y", "G"} & set(directives):
        raise ValueError(f"time_format={form!r} has no year, so it tells no time")
    if ("I" in directives) != ("p" in directives):
        raise ValueError(f"time_format={form!r}: %I and %p go together; %H is the hour of a whole day")
    fixed = all(directive in _WIDTHS for directive in directives)
    literal = len(_DIRECTIVE.sub("", pattern))
    return TimeFormat(
        pattern,
        own_zone="z" in directives,
        offset=_minutes(zone[1]) if zone else None,
        width=literal + sum(_WIDTHS[directive] for directive in directives) if fixed else None,
    )


def check_form(form: str) -> None:
    """Raise ``ValueError`` if a text is not a form of time."""
    if form not in EPOCH_UNITS and form != ISO:
        read_format(form)


@cache
def is_zone(name: str) -> bool:
    """Return whether a text names a time zone."""
    try:  # not polars: it would start threads while modules are imported, and a process forked later would hang
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return name != "localtime"


def check_zone(name: str) -> None:
    """Raise ``ValueError`` if a text names no time zone."""
    if not is_zone(name):
        raise ValueError(f"timezone={name!r} is not a time zone, for example Asia/Shanghai or UTC")


def _minutes(zone: str) -> int:
    if zone in ("Z", "UTC", "GMT"):
        return 0
    digits = zone[1:].replace(":", "")
    return (-1 if zone[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


# ---- the form of values ---------------------------------------------------------------------------------------------

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
_ISO_TEXT = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?\s?(Z|z|[+-]\d\d(:?\d\d)?)?$"
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
    """Return the form of integers, numbers or texts, none of them missing, or None if they are not times."""
    if not len(values):
        return None
    forms = _digits(values) if values.dtype.is_integer() or values.dtype == pl.String else []
    if values.dtype.is_numeric():
        low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
        forms += [unit for unit, size in EPOCHS if size * 0.5 <= low and high <= size * 4]
    elif values.dtype == pl.String and not forms:
        forms = [form for form in FORMATS if _are_times(values.str.to_datetime(form, strict=False))]
        if not forms and values.str.contains(_ISO_TEXT).all() and _are_times(_iso(values)):
            forms = ["iso"]
    return TimeForm(forms[0], tuple(forms[1:])) if forms else None


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
    """Parse times of digits, parts that the form leaves out at their lowest; null marks a value that does not fit."""
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
