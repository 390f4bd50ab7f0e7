"""One text for one value: how booleans, numbers and times are written, and whether texts surely are such values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import polars as pl

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
    """The form that all of some different texts have.

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
    """The one text of every value of a form; a text that is none of that form stays as it is."""
    if form == "text":
        return texts
    found = texts.filter(texts.str.contains(_TO_REWRITE[form]).fill_null(False)).unique()
    if found.is_empty():
        return texts
    return texts.replace(found, pl.Series([_CANONICAL[form](text) for text in found], dtype=pl.String))


def canonical_text(text: str, form: Form) -> str:
    """The same for one text."""
    return text if form == "text" else _CANONICAL[form](text)


def _boolean(text: str) -> str:
    return TRUTH.get(text.lower(), text)


def _number(text: str) -> str:
    """A number without exponent and without zeros that say nothing; no digit of it is lost."""
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
    """A day, a day and time, or a moment in UTC with a Z; midnight of a day is the day."""
    found = re.fullmatch(_TIME, text)
    if found is None:
        return text
    day, clock, second, fraction, zone = found.groups()
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
