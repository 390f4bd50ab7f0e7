"""Convert raw columns to canonical texts and typed values; an error names the file, the row and the rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.label_settings import Label
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError, nearest

FloatArray = NDArray[np.float64]

LARGEST = float(np.finfo(np.float32).max)
"""What a model gets are numbers of 32 bits."""
TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Null)


def column(chunk: Chunk, name: str) -> pl.Series:
    """Return the raw column; the error for a missing one gives the nearest name."""
    if name not in chunk.frame.columns:
        raise UnimixerError(f"{chunk.source}: missing column {name!r}{nearest(name, chunk.columns)}")
    return chunk.frame.get_column(name)


def as_text(series: pl.Series, missing: tuple[str, ...] = ("",), *, source: str = "rows") -> pl.Series:
    """Return canonical texts, null where missing: 3, 3.0 and "3.0" are one value, true is 1.

    Raises:
        UnimixerError: the values have no text, as bytes that are no UTF-8; it names the ``source``.
    """
    try:
        text = _canonical(series)
    except pl.exceptions.PolarsError as error:
        raise UnimixerError(
            f"{source}: column {series.name!r} of type {series.dtype} cannot be read as text "
            f"({str(error).splitlines()[0]}); convert the column, or leave it out of the schema"
        ) from None
    texts, forms = _missing_texts(missing)
    gone = text.is_in(texts.to_list())
    for form in forms:
        if form != "boolean" or series.dtype == pl.Boolean:
            gone |= canonical(text, form).is_in(canonical(texts, form).to_list())
    if not gone.any():
        return text.rename(series.name)
    return pl.select(pl.when(gone).then(None).otherwise(text)).to_series().rename(series.name)


@cache
def _missing_texts(missing: tuple[str, ...]) -> tuple[pl.Series, tuple[Form, ...]]:
    """Return the canonical texts that mean a missing value, and the forms in which values have other texts."""
    texts = pl.concat([_canonical(pl.Series(missing, dtype=pl.String)), pl.Series([""])])
    forms = {form_of(pl.Series([text]), typed=True) for text in texts if not text.removeprefix("-").isdigit()}
    return texts, tuple(sorted(forms - {"text"}))


def text_column(chunk: Chunk, name: str, missing: tuple[str, ...] = ("",)) -> pl.Series:
    """Return the canonical texts of a raw column."""
    series = column(chunk, name)
    if series.dtype.is_nested():
        raise UnimixerError(
            f"{chunk.source}: column {name!r} has type {series.dtype}, expected one value a row; "
            "lists are features of kind 'sequence' or 'embedding'"
        )
    return as_text(series, missing, source=chunk.source)


def key_column(chunk: Chunk, name: str) -> pl.Series:
    """Return the canonical texts of a column of keys; raise if one is not exact."""
    series = column(chunk, name)
    refuse_booleans(chunk, series)
    check_exact(chunk, series)
    return text_column(chunk, name)


def refuse_booleans(chunk: Chunk, series: pl.Series) -> None:
    """Raise for a boolean, or a list of them, in a column whose values are others."""
    if series.dtype in (pl.Boolean, pl.List(pl.Boolean)):
        valid = series.is_null() if series.dtype == pl.Boolean else series.list.len().fill_null(0) == 0
        way_out = "write the value itself, or leave it empty"
        require(chunk, series, valid, "is a boolean, but the values of this column are not", way_out)


def check_exact(chunk: Chunk, series: pl.Series) -> None:
    """Raise for a key that lost its last digits in a float, also where the float was written as text."""
    way_out = "write keys as integers or as text"
    if series.dtype == pl.String and series.str.contains("+", literal=True).any():  # quickly told from most keys
        lost = series.str.contains(r"^\s*-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]+\s*$").fill_null(False)
        require(chunk, series, ~lost, "is a key written as a float, which has lost its last digits", way_out)
    if not series.dtype.is_float():
        return
    bits = 24 if series.dtype == pl.Float32 else 53
    exact = (series.abs() < 2**bits).fill_null(True) | series.is_nan().fill_null(True)
    require(
        chunk,
        series,
        exact,
        f"is a key of 2^{bits} or more in {series.dtype}, which has lost its last digits",
        way_out,
    )


def has_own_form(chunk: Chunk, name: str) -> bool:
    """Return whether the type of a column is numbers with decimals, or times."""
    dtype = column(chunk, name).dtype
    inner = dtype.inner if isinstance(dtype, (pl.List, pl.Array)) else dtype
    return bool(inner.is_float() or inner.is_decimal() or inner.is_temporal())


def as_number(
    chunk: Chunk,
    name: str,
    missing: tuple[str, ...] = ("",),
    *,
    way_out: str = "correct the row, or list the text under 'missing' of the feature",
    largest: float = LARGEST,
    booleans: bool = True,
) -> FloatArray:
    """Return float64 values, NaN where missing; true is 1 unless ``booleans`` are refused."""
    series = column(chunk, name)
    if not booleans:
        refuse_booleans(chunk, series)
    if series.dtype in TEXT_TYPES:
        text = as_text(series, missing)
        numbers = text.cast(pl.Float64, strict=False)
        if booleans and numbers.null_count() > text.null_count():
            truth = text.str.to_lowercase().replace_strict(TRUTH, default=None, return_dtype=pl.String)
            numbers = numbers.fill_null(truth.cast(pl.Float64))
        require(chunk, text, text.is_null() | numbers.is_not_null(), "is not a number", way_out)
    elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
        # 0.1 in 32 bits is meant as 0.1, the number that its text has, and not as 0.10000000149
        numbers = (series.cast(pl.String) if series.dtype == pl.Float32 else series).cast(pl.Float64)
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
    array: FloatArray = numbers.fill_null(float("nan")).to_numpy().astype(np.float64, copy=False)
    beyond = np.abs(array) > largest  # false for NaN
    if beyond.any():
        infinite = np.isinf(array[beyond][0])
        rule = "is infinite" if infinite else "is beyond 3.4e38, the largest number of 32 bits"
        require(chunk, series, pl.Series(~beyond), rule, "correct the row, or leave the value empty")
    return array


def as_label(chunk: Chunk, label: Label) -> NDArray[np.uint8 | np.float32]:
    """Return 0 or 1 for every row, or the probability of a soft label."""
    series = column(chunk, label.column)
    form = "a soft label is a number from 0 to 1" if label.soft else "a label is 0 or 1, or a number with a threshold"
    numbers = as_number(chunk, label.column, way_out=form)
    require(
        chunk,
        series,
        pl.Series(~np.isnan(numbers)),
        "is missing, but a label must be known",
        "leave such rows out of the log",
    )
    if label.soft:
        valid = pl.Series((numbers >= 0) & (numbers <= 1))
        require(chunk, series, valid, "is not a probability", f"soft label {label.name!r} holds numbers from 0 to 1")
        return numbers.astype(np.float32)
    if label.threshold is not None:
        return (numbers >= label.threshold).astype(np.uint8)
    binary = pl.Series((numbers == 0) | (numbers == 1))
    require(
        chunk,
        series,
        binary,
        "is not 0 or 1",
        f"give label {label.name!r} a threshold if it is a graded outcome",
    )
    return numbers.astype(np.uint8)


def as_weight(chunk: Chunk, name: str) -> FloatArray:
    """Return sample weights, zero or more."""
    way_out = "a sample weight is a number of 0 or more"
    numbers = as_number(chunk, name, way_out=way_out)
    require(chunk, column(chunk, name), pl.Series(numbers >= 0), "is not a weight", way_out)
    return numbers


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


def require(chunk: Chunk, values: pl.Series, valid: pl.Series, rule: str, way_out: str) -> None:
    """Raise at the first row where ``valid`` is false."""
    if not valid.all():
        row = int((~valid).arg_max() or 0)
        value = values[row].to_list() if isinstance(values[row], pl.Series) else values[row]
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise UnimixerError(f"{chunk.at(row)}: {values.name}={shown} {rule}; {way_out}")


# ---- the canonical text of a value ----------------------------------------------------------------------------------

Form = Literal["text", "boolean", "number", "time"]
"""What the values of a vocabulary are; the texts of a ``text`` stand for themselves alone."""
TRUTH = {"true": "1", "false": "0"}
FAR = 400
"""An exponent beyond it is that of no float, and nobody writes such a number out."""

_PLAIN = r"-?(?:0|[1-9][0-9]*)"
_NUMBER = rf"(?:{_PLAIN}(?:\.[0-9]*)?|-?\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?"
_TIME = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-5][0-9])(:[0-5][0-9])?(?:[.,]([0-9]+))? ?([Zz]|UTC|[+-][0-9]{2}(?::?[0-5][0-9])?)?)?"
)
_OF_FORM = {"boolean": r"^(?i:0|1|true|false)$", "number": f"^{_NUMBER}$", "time": f"^{_TIME}$"}
_TO_REWRITE = {"boolean": "^(?i:true|false)$", "number": r"^-?[0-9]*[.eE]|^-0$", "time": "^[0-9]{4}-[0-9]{2}-[0-9]{2}"}
"""Texts that may not be canonical; all others are left alone unseen."""


def form_of(texts: pl.Series, *, typed: bool) -> Form:
    """Return the form that all of some different texts have.

    Args:
        texts: the different values of a column.
        typed: a column type said that they are numbers or times. Texts alone are not taken for such where that would
            make one value of two: 1.1 and 1.10 may be versions.
    """
    if not len(texts):
        return "text"
    if texts.str.contains(_OF_FORM["boolean"]).all():
        return "boolean"
    for form in ("number", "time"):
        if texts.str.contains(_OF_FORM[form]).all():
            return form if typed or canonical(texts, form).n_unique() == texts.n_unique() else "text"
    return "text"


def canonical(texts: pl.Series, form: Form) -> pl.Series:
    """Return the canonical text of every value of a form; a text of another form stays as it is."""
    if form == "text":
        return texts
    rewritten = texts.filter(texts.str.contains(_TO_REWRITE[form]).fill_null(False)).unique()
    if rewritten.is_empty():
        return texts
    return texts.replace(rewritten, pl.Series([_CANONICAL[form](text) for text in rewritten], dtype=pl.String))


def canonical_text(text: str, form: Form) -> str:
    """Return the canonical text of one value of a form."""
    return text if form == "text" else _CANONICAL[form](text)


def _boolean(text: str) -> str:
    return TRUTH.get(text.lower(), text)


def _number(text: str) -> str:
    """Write a number without exponent and without redundant zeros; no digit is lost."""
    if re.fullmatch(_NUMBER, text) is None:
        return text
    mantissa, _, exponent = text.lower().partition("e")
    shift = int(exponent or 0)
    if abs(shift) > FAR:
        return text
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits, point = whole + fraction, len(whole) + shift
    digits = "0" * max(0, -point) + digits + "0" * max(0, point - len(digits))
    whole, fraction = digits[: max(0, point)].lstrip("0") or "0", digits[max(0, point) :].rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if mantissa.startswith("-") and number != "0" else number


def _time(text: str) -> str:
    """Write a day, a day and time, or a moment in UTC with a Z; midnight of a day is the day."""
    match = re.fullmatch(_TIME, text)
    if match is None:
        return text
    day, clock, second, fraction, zone = match.groups()
    zone = {None: "", "Z": "+00:00", "z": "+00:00", "UTC": "+00:00"}.get(zone, zone)
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{second or ':00'}{zone}")
        moment = moment.astimezone(UTC) if zone else moment
    except (ValueError, OverflowError):
        return text
    parts = (fraction or "").rstrip("0")
    if not zone and not parts and (moment.hour, moment.minute, moment.second) == (0, 0, 0):
        return day
    return f"{moment:%Y-%m-%d %H:%M:%S}{'.' if parts else ''}{parts}{'Z' if zone else ''}"


_CANONICAL: dict[str, Callable[[str], str]] = {"boolean": _boolean, "number": _number, "time": _time}
