"""Raw columns to typed values. A value that does not fit is named with its file, its row and the rule."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.schema import Feature, Keys, Label
from unimixer.data.tables import Chunk
from unimixer.errors import UnimixerError, nearest

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

EPOCH_UNITS = ("s", "ms", "us")
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999; calendars end there."""
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Null)


def column(chunk: Chunk, name: str) -> pl.Series:
    """The raw column, or an error that gives the nearest name."""
    if name not in chunk.frame.columns:
        raise UnimixerError(f"{chunk.source}: missing column {name!r}{nearest(name, chunk.columns)}")
    return chunk.frame.get_column(name)


def as_text(series: pl.Series, missing: tuple[str, ...] = ("",)) -> pl.Series:
    """Canonical text of categorical values, null where missing: 3, 3.0 and "3.0" are one value, true is 1."""
    text = _canonical(series)
    gone = text.is_in(_texts_of(missing))
    if not gone.any():
        return text.rename(series.name)
    return pl.select(pl.when(gone).then(None).otherwise(text)).to_series().rename(series.name)


@cache
def _texts_of(missing: tuple[str, ...]) -> list[str]:
    return [*_canonical(pl.Series(missing, dtype=pl.String)), ""]


def text_column(chunk: Chunk, name: str, missing: tuple[str, ...] = ("",)) -> pl.Series:
    """Canonical text of a raw column."""
    series = column(chunk, name)
    if series.dtype.is_nested():
        raise UnimixerError(
            f"{chunk.source}: column {name!r} has type {series.dtype}, expected one value a row; "
            "lists are features of kind 'sequence' or 'embedding'"
        )
    return as_text(series, missing)


def as_number(
    chunk: Chunk,
    name: str,
    missing: tuple[str, ...] = ("",),
    *,
    way_out: str = "correct the row, or list the text under 'missing' of the feature",
) -> FloatArray:
    """Float64 values, NaN where missing."""
    series = column(chunk, name)
    if series.dtype in TEXT_TYPES:
        text = as_text(series, missing)
        numbers = text.cast(pl.Float64, strict=False)
        _require(chunk, text, text.is_null() | numbers.is_not_null(), "is not a number", way_out)
    elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
        numbers = series.cast(pl.Float64)
        if not series.dtype.is_float() and not series.null_count() and missing == ("",):
            return numbers.to_numpy()  # whole numbers are finite
    else:
        raise UnimixerError(
            f"{chunk.source}: column {name!r} has type {series.dtype}, expected numbers; "
            "convert the column, or declare another kind"
        )
    codes = [float(m) for m in missing if _is_number(m)]
    if codes:
        numbers = pl.select(pl.when(numbers.is_in(codes)).then(None).otherwise(numbers)).to_series()
    infinite = numbers.is_infinite().fill_null(False)
    _require(chunk, series, ~infinite, "is infinite", "correct the row, or leave the value empty")
    return numbers.fill_null(float("nan")).to_numpy().astype(np.float64, copy=False)


def as_label(chunk: Chunk, label: Label) -> NDArray[np.uint8]:
    """0 or 1 for every row."""
    name = label.source or label.name
    series = column(chunk, name)
    numbers = as_number(chunk, name, way_out="a label is 0 or 1, or a number with a threshold")
    _require(
        chunk,
        series,
        pl.Series(~np.isnan(numbers)),
        "is missing, but a label must be known",
        "leave such rows out of the log",
    )
    if label.threshold is not None:
        return (numbers >= label.threshold).astype(np.uint8)
    binary = pl.Series((numbers == 0) | (numbers == 1))
    _require(
        chunk,
        series,
        binary,
        "is not 0 or 1",
        f"give label {label.name!r} a threshold in the schema if it is a graded outcome",
    )
    return numbers.astype(np.uint8)


def as_weight(chunk: Chunk, name: str) -> NDArray[np.float32]:
    """Sample weights, zero or more."""
    way_out = "a sample weight is a number of 0 or more"
    numbers = as_number(chunk, name, way_out=way_out)
    _require(chunk, column(chunk, name), pl.Series(numbers >= 0), "is not a weight", way_out)
    return numbers.astype(np.float32)


def as_time(chunk: Chunk, keys: Keys, first_row: int | None = None) -> IntArray:
    """Event time in milliseconds since 1970 (UTC); the number of the row where the schema names no time column.

    Args:
        chunk: raw rows.
        keys: column, form and zone of the time.
        first_row: rows of the whole log before these (default: as the chunk counts them within its file).
    """
    if keys.time is None:
        first = chunk.first_row - 1 if first_row is None else first_row
        return np.arange(first, first + chunk.frame.height, dtype=np.int64)
    series = column(chunk, keys.time)
    if isinstance(series.dtype, pl.Datetime) or series.dtype == pl.Date:
        stamps = series.cast(pl.Datetime("ms", getattr(series.dtype, "time_zone", None)))
        rule = "is not a time"
    elif keys.time_format in EPOCH_UNITS:
        return _epoch(chunk, keys.time, keys.time_format)
    else:
        stamps = _parse_times(text_column(chunk, keys.time), keys.time_format)
        rule = f"is not a time of the form {keys.time_format!r}"
    millis = _zoned(stamps, keys.timezone).dt.epoch("ms")
    _require(chunk, series, millis.is_not_null(), rule, "every impression needs its time; see keys.time_format")
    return millis.to_numpy()


def _epoch(chunk: Chunk, name: str, unit: str) -> IntArray:
    way_out = "every impression needs its time; see keys.time_format"
    numbers = as_number(chunk, name, way_out=way_out)
    # seconds may have decimals, which no float64 holds exactly; microseconds are cut to the millisecond they are in
    millis = np.round(numbers * 1000) if unit == "s" else np.floor(numbers / 1000 if unit == "us" else numbers)
    within = pl.Series(np.abs(millis) <= LAST_MS)  # false for NaN
    _require(chunk, column(chunk, name), within, f"is not a time in {unit}", way_out)
    return millis.astype(np.int64)


def _parse_times(texts: pl.Series, form: str) -> pl.Series:
    """Times of a strptime format, with the zone of their own where the format has one."""
    if "%H" in form and "%M" not in form:  # the parser wants minutes beside hours
        texts, form = texts + " 00", form + " %M"
    try:
        return texts.str.to_datetime(form, time_unit="ms", strict=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UnimixerError(
            f"keys.time_format={form!r} is not a time format ({reason}); use s, ms, us, or for example %Y-%m-%d %H:%M"
        ) from None


def _zoned(stamps: pl.Series, timezone: str) -> pl.Series:
    """Times that carry no zone stand in the log's zone; of an hour that clocks show twice, it is the first."""
    zone(timezone)
    dtype = stamps.dtype
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return stamps
    return stamps.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")


def zone(name: str) -> ZoneInfo:
    """The time zone, or an error that names it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise UnimixerError(f"keys.timezone={name!r} is not a time zone, for example Asia/Shanghai or UTC") from None


def midnight(day: date, timezone: str) -> int:
    """First millisecond of a day in a zone."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone(timezone)).timestamp() * 1000)


def time_part(millis: IntArray, part: str, timezone: str) -> pl.Series:
    """Hour (0-23) or weekday (1 = Monday) of event times, as text."""
    zone(timezone)
    local = pl.Series(millis).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(timezone)
    return (local.dt.hour() if part == "hour" else local.dt.weekday()).cast(pl.String)


def as_lists(chunk: Chunk, feature: Feature) -> pl.Series:
    """A list of texts for every row, the last ``max_length`` of them; missing values are left out."""
    lists = _raw_lists(chunk, feature)
    lengths = lists.list.len().fill_null(0).to_numpy()
    texts = as_text(lists.filter(pl.Series(lengths > 0)).explode(), feature.missing)
    grouped = (
        pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "text": texts})
        .filter(pl.col("text").is_not_null())
        .group_by("row", maintain_order=True)
        .agg(pl.col("text").tail(feature.max_length))
    )
    rows = pl.DataFrame({"row": np.arange(len(lengths))})
    joined = rows.join(grouped, on="row", how="left", maintain_order="left")
    return joined.select(pl.col("text").fill_null(pl.lit([], dtype=pl.List(pl.String)))).to_series()


def _raw_lists(chunk: Chunk, feature: Feature) -> pl.Series:
    series = column(chunk, feature.column)
    where = f"{chunk.source}: sequence {feature.name!r} reads column {feature.column!r} of type {series.dtype}"
    if isinstance(series.dtype, (pl.List, pl.Array)):
        if series.dtype.inner.is_nested():
            raise UnimixerError(f"{where}; expected lists of plain values")
        return series.cast(pl.List(series.dtype.inner))
    if series.dtype == pl.Null:
        return series.cast(pl.List(pl.String))
    if feature.separator is None:
        raise UnimixerError(f"{where}; give it a separator for text, or store lists")
    return series.cast(pl.String).str.split(feature.separator)


def as_vectors(chunk: Chunk, feature: Feature) -> NDArray[np.float32]:
    """Pretrained vectors (rows, width), NaN in every column where one is missing."""
    series, width = column(chunk, feature.column), feature.width or 0
    out = np.full((len(series), width), np.nan, dtype=np.float32)
    dtype = series.dtype
    if dtype == pl.Null:
        return out
    if not isinstance(dtype, (pl.List, pl.Array)) or not dtype.inner.is_numeric():
        raise UnimixerError(
            f"{chunk.source}: column {feature.column!r} has type {dtype}, expected lists of {width} numbers"
        )
    lists = series.cast(pl.List(pl.Float32))
    lengths = lists.list.len()
    _require(
        chunk,
        lengths,
        lengths.is_null() | (lengths == width),
        "numbers is a vector of the wrong width",
        f"feature {feature.name!r} declares width={width}",
    )
    known = lists.is_not_null().to_numpy()
    if known.any():
        out[known] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    whole = np.isfinite(out).all(1) | np.isnan(out).all(1)
    _require(
        chunk, series, pl.Series(whole), "holds a number that is missing or infinite", "leave out the whole vector"
    )
    return out


def _canonical(series: pl.Series) -> pl.Series:
    if series.dtype.is_float():
        integer = series.cast(pl.Int64, strict=False)  # null beyond 64 bits
        whole = (series.is_finite() & (series == series.floor())).fill_null(False) & integer.is_not_null()
        other = pl.when(series.is_nan()).then(None).otherwise(series.cast(pl.String))
        return pl.select(pl.when(whole).then(integer.cast(pl.String)).otherwise(other)).to_series()
    if series.dtype.is_integer():
        return series.cast(pl.String)
    text = (series.cast(pl.Int8) if series.dtype == pl.Boolean else series).cast(pl.String)
    return text.str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "${1}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require(chunk: Chunk, values: pl.Series, valid: pl.Series, rule: str, way_out: str) -> None:
    """Raise at the first row where ``valid`` is false."""
    if not valid.all():
        row = int((~valid).arg_max() or 0)
        value = values[row].to_list() if isinstance(values[row], pl.Series) else values[row]
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise UnimixerError(f"{chunk.at(row)}: {values.name}={shown} {rule}; {way_out}")
