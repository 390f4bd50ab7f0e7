"""Convert raw times of any form to milliseconds since 1970 (UTC)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.values import TEXT_TYPES, as_number, as_text, column, require, text_column
from unimixer.data.schema import Keys
from unimixer.data.time_format import EPOCH_UNITS, ISO, read_format
from unimixer.errors import UnimixerError

IntArray = NDArray[np.int64]

LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999; calendars end there."""
PLAUSIBLE = (631_152_000_000, 4_102_444_800_000)
"""Milliseconds of 1990 and of 2100: between them lie the times of logs."""
CALENDARS = ("%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
"""Forms in which a calendar time is a whole number."""
WAY_OUT = "every impression needs its time; see keys.time_format"
_ISO = (
    r"^(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:[0-5]\d)(:[0-5]\d(?:[.,]\d+)?)?\s?([Zz]|UTC|[+-]\d\d(?::?[0-5]\d)?)?)?$"
)


def as_time(chunk: Chunk, keys: Keys, first_row: int | None = None) -> IntArray:
    """Return event times in milliseconds since 1970 (UTC), or row numbers if the schema names no time column.

    Args:
        chunk: raw rows.
        keys: column, form and zone of the time.
        first_row: rows of the whole log before these (default: as the chunk counts them within its file).
    """
    if keys.time is None:
        first = chunk.first_row - 1 if first_row is None else first_row
        return np.arange(first, first + chunk.frame.height, dtype=np.int64)
    series, form = column(chunk, keys.time), keys.time_format
    if isinstance(series.dtype, pl.Datetime) or series.dtype == pl.Date:
        stamps = series.cast(pl.Datetime("ms", getattr(series.dtype, "time_zone", None)))
        rule = "is not a time"
    elif form in EPOCH_UNITS:
        return _epoch(chunk, keys.time, form)
    else:
        texts = text_column(chunk, keys.time)
        rule = f"is not a time of the form {form!r}"
        if form == ISO:
            return _iso(chunk, texts, keys.timezone, rule)
        stamps = _parse(texts, form, padded=series.dtype not in TEXT_TYPES)
    require(chunk, series, stamps.is_not_null(), rule, WAY_OUT)
    millis = _millis(chunk, series, _zoned(stamps, keys.timezone), keys.timezone)
    if isinstance(series.dtype, pl.Datetime):
        # the type may have been given with a wrong unit: seconds that were taken for nanoseconds are in 1970
        physical = series.to_physical().to_numpy().astype(np.float64)
        _check_plausible(
            chunk, series, physical, millis, series.dtype.time_unit, "convert the column from its own unit"
        )
    return millis


def dates_of(millis: IntArray, zone_name: str) -> list[date]:
    """Return the different days, in a zone, of some times."""
    return _dates(millis, zone_name).unique().to_list()


def day_numbers(millis: IntArray, zone_name: str) -> IntArray:
    """Return for every time the number of its day in a zone, counted from 1970-01-01."""
    return _dates(millis, zone_name).cast(pl.Int64).to_numpy()


def _dates(millis: IntArray, zone_name: str) -> pl.Series:
    moments = pl.from_epoch(pl.Series(millis), time_unit="ms").dt.replace_time_zone("UTC")
    return moments.dt.convert_time_zone(zone_name).dt.date()


# ---- numbers --------------------------------------------------------------------------------------------------------


def _epoch(chunk: Chunk, name: str, unit: str) -> IntArray:
    series = column(chunk, name)
    numbers = as_number(chunk, name, way_out=WAY_OUT, largest=np.finfo(np.float64).max, booleans=False)
    _check_exact(chunk, series, numbers, unit)
    millis = _in_millis(series, numbers, unit)
    require(chunk, series, pl.Series(np.abs(millis) <= LAST_MS), f"is not a time in {unit}", WAY_OUT)  # false for NaN
    whole = millis.astype(np.int64)
    _check_plausible(chunk, series, numbers, whole, unit, "correct keys.time_format, or the row")
    return whole


def _check_exact(chunk: Chunk, series: pl.Series, numbers: NDArray[np.float64], unit: str) -> None:
    """Raise for a time that lost its last digits in a float of 32 bits, or in a text such as 1.7e+12."""
    if series.dtype == pl.Float32:
        exact = pl.Series(~(np.abs(numbers) >= 2**24))
    elif series.dtype == pl.String and series.str.contains("+", literal=True).any():  # quickly told from most times
        digits = series.str.extract_groups(r"^\s*-?[0-9](?:\.([0-9]+))?[eE]\+([0-9]{1,3})\s*$").struct.unnest()
        decimals, exponent = digits.to_series(0).str.len_bytes().fill_null(0), digits.to_series(1).cast(pl.Int64)
        second = len(str(EPOCH_UNITS["s"] // EPOCH_UNITS[unit])) - 1
        exact = (exponent - decimals.cast(pl.Int64) <= second).fill_null(True)
    else:
        return
    rule = "is a time written as a float, which has lost its last digits"
    require(chunk, series, exact, rule, "write times as whole numbers, or as ISO 8601")


def _in_millis(series: pl.Series, numbers: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    if unit == "ns" and not series.dtype.is_float():  # no float64 holds a nanosecond of our days
        whole = (as_text(series) if series.dtype in TEXT_TYPES else series).cast(pl.Int64, strict=False)
        if not whole.null_count():
            return (whole // EPOCH_UNITS["ms"]).to_numpy().astype(np.float64)
    return _scaled(numbers, unit)


def _scaled(numbers: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Scale to milliseconds; seconds may have decimals, which no float64 holds exactly, finer units are cut."""
    if unit != "s":
        return np.floor(numbers / (EPOCH_UNITS["ms"] // EPOCH_UNITS[unit]))
    with np.errstate(over="ignore"):  # what becomes infinite is no time
        return np.round(numbers * 1000)


def _check_plausible(
    chunk: Chunk, series: pl.Series, numbers: NDArray[np.float64], millis: IntArray, unit: str, way_out: str
) -> None:
    """Refuse times outside 1990-2100 that would lie inside it in another unit; small clocks fit no unit."""
    odd = ~_plausible(millis)
    if not odd.any():
        return
    rows = np.flatnonzero(odd)
    readings = {other: _scaled(numbers[rows], other) for other in EPOCH_UNITS if other != unit}
    readings |= {form: _calendar(numbers[rows], form) for form in CALENDARS}
    plausible = {form: _plausible(reading) for form, reading in readings.items()}
    # a made-up clock passes the numbers of a few calendar days, but not of these alone
    plausible = {form: ok for form, ok in plausible.items() if ok.any() and (form in EPOCH_UNITS or ok.all())}
    if not plausible:
        return
    row = min(int(np.argmax(ok)) for ok in plausible.values())
    others = [f"{_shown(readings[form][row])} in {form}" for form, ok in plausible.items() if ok[row]]
    valid = pl.Series(np.arange(len(millis)) != rows[row])
    require(
        chunk,
        series,
        valid,
        f"is the time {_shown(millis[rows[row]])} in {unit}, but {' or '.join(others)}",
        way_out,
    )


def _plausible(millis: NDArray[np.float64] | IntArray) -> NDArray[np.bool_]:
    return (millis >= PLAUSIBLE[0]) & (millis < PLAUSIBLE[1])


def _calendar(numbers: NDArray[np.float64], form: str) -> NDArray[np.float64]:
    """Convert whole numbers that are calendar times to milliseconds; NaN elsewhere."""
    texts = pl.Series(numbers).cast(pl.Int64, strict=False).cast(pl.String)
    width = read_format(form).width
    stamps = _parse(pl.select(pl.when(texts.str.len_bytes() == width).then(texts)).to_series(), form)
    return stamps.dt.epoch("ms").cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _shown(millis: float) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, tz=UTC):%Y-%m-%d}"


# ---- texts ----------------------------------------------------------------------------------------------------------


def _parse(texts: pl.Series, form: str, *, padded: bool = False) -> pl.Series:
    """Parse times of a strptime format; they are in UTC if the format or the text has a zone.

    Args:
        texts: written times.
        form: the format.
        padded: the texts were numbers, which have no leading zeros.
    """
    read = read_format(form)
    pattern = read.pattern
    if padded and read.width is not None:
        texts = texts.str.zfill(read.width)
    if read.own_zone:
        texts = texts.str.replace("Z$", "+00:00")
    if ("%H" in pattern or "%I" in pattern) and "%M" not in pattern:  # the parser wants minutes beside hours
        texts, pattern = texts + " 00", pattern + " %M"
    try:
        stamps = texts.str.to_datetime(pattern, time_unit="ms", strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UnimixerError(f"keys.time_format={form!r} is not a time format ({reason}); use %Y-%m-%d %H:%M") from None
    if read.offset is None:
        return stamps
    return (stamps - timedelta(minutes=read.offset)).dt.replace_time_zone("UTC")


def _iso(chunk: Chunk, texts: pl.Series, timezone: str, rule: str) -> IntArray:
    frame = texts.rename("text").to_frame().select(pl.col("text").str.extract_groups(_ISO).struct.unnest())
    day, clock, second, own = frame.get_columns()
    seconds = second.fill_null(":00")
    plain = day + " " + clock.fill_null("00:00") + seconds.str.slice(0, 3)
    stamps = plain.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False)
    require(chunk, texts, stamps.is_not_null(), rule, WAY_OUT)
    fraction: IntArray = seconds.str.slice(4, 3).str.pad_end(3, "0").cast(pl.Int64).to_numpy()
    if own.null_count() == len(own):
        return _millis(chunk, texts, _zoned(stamps, timezone), timezone) + fraction
    if own.null_count():
        zoned = _zoned(pl.select(pl.when(own.is_null()).then(stamps)).to_series(), timezone)
        require(chunk, texts, own.is_not_null() | zoned.is_not_null(), _skipped(timezone), WAY_OUT)
        of_log = zoned.dt.epoch("ms")
    else:
        of_log = stamps.dt.epoch("ms")
    digits = own.str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").str.slice(0, 4)
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2, 2).cast(pl.Int64)
    east = pl.select(pl.when(own.str.starts_with("-")).then(-minutes).otherwise(minutes)).to_series()
    moved = stamps.dt.epoch("ms") - east * 60_000
    millis: IntArray = moved.fill_null(of_log).to_numpy()
    return millis + fraction


# ---- zones ----------------------------------------------------------------------------------------------------------


def _millis(chunk: Chunk, series: pl.Series, stamps: pl.Series, timezone: str) -> IntArray:
    millis = stamps.dt.epoch("ms")
    require(chunk, series, millis.is_not_null(), _skipped(timezone), WAY_OUT)
    numbers: IntArray = millis.to_numpy()
    return numbers


def _skipped(timezone: str) -> str:
    return f"is in the hour that the clocks of {timezone} skip"


def _zoned(stamps: pl.Series, timezone: str) -> pl.Series:
    """Put times without a zone into the log's zone; an hour that clocks show twice means the first."""
    dtype = stamps.dtype
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return stamps
    return stamps.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")


def midnight(day: date, timezone: str) -> int:
    """Return the first millisecond of a day in a zone."""
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).timestamp() * 1000)


def time_part(millis: IntArray, part: str, timezone: str) -> pl.Series:
    """Return the hour (0-23) or the weekday (1 = Monday) of event times as text."""
    local = pl.Series(millis).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(timezone)
    return (local.dt.hour() if part == "hour" else local.dt.weekday()).cast(pl.String)
