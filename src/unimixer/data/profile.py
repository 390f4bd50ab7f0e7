"""What the values of a raw column look like: kind, missing share, cardinality, unit of time, separator of lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl

Kind = Literal["integer", "number", "text", "boolean", "time", "list", "other"]
NULL_TEXTS = ("NULL", "null", "NaN", "nan", "None", "none", "NA", "N/A", "\\N")
EPOCHS = (("s", 10**9), ("ms", 10**12), ("us", 10**15))
"""Unit of an integer time, and its size a generation ago; up to four times that is a date until 2096."""
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d", "%Y%m%d")
SEPARATORS = ("|", ";", ",", " ")


@dataclass(frozen=True)
class Column:
    """A column of the sample."""

    name: str
    raw: pl.Series
    values: pl.Series
    """Typed values that are not missing."""
    kind: Kind
    null_texts: tuple[str, ...] = ()
    """Texts such as NULL that stand for missing values."""

    @property
    def missing(self) -> float:
        """Share of missing values."""
        return 1 - len(self.values) / max(1, len(self.raw))

    @cached_property
    def unique(self) -> int:
        """Number of different values."""
        return 0 if self.kind in ("list", "other") else self.values.n_unique()

    @property
    def is_binary(self) -> bool:
        """Whether there are zeros and ones, and nothing else."""
        if self.kind == "boolean":
            return self.unique == 2
        return self.kind in ("integer", "number") and set(self.values.unique().to_list()) == {0, 1}

    @property
    def is_row_number(self) -> bool:
        """Whether every row has its own value."""
        return self.kind in ("integer", "text") and self.unique == len(self.values) >= 20

    @cached_property
    def time_format(self) -> str | None:
        """How the values tell the time, in the words of ``keys.time_format``."""
        if self.kind == "time":
            return "ms"  # typed: no format is needed
        if self.kind == "integer" and len(self.values):
            low, high = self.values.min(), self.values.max()
            for unit, size in EPOCHS:
                if size * 0.5 <= low and high <= size * 4:  # type: ignore[operator]
                    return unit
        if self.kind not in ("integer", "text") or not len(self.values):
            return None
        texts = self.values.cast(pl.String)
        for form in TIME_FORMATS:
            times = texts.str.to_datetime(form, strict=False)
            if times.null_count() == 0 and times.dt.year().is_between(1990, 2096).all():
                return form
        return None

    @cached_property
    def separator(self) -> str | None:
        """What stands between the values of a multi-valued text: the parts recur more than the wholes."""
        if self.kind != "text" or not len(self.values):
            return None
        for separator in SEPARATORS:
            multiple = self.values.filter(self.values.str.contains(separator, literal=True))
            if len(multiple) < max(2, 0.02 * len(self.values)):
                continue
            parts = multiple.str.split(separator).explode()
            if parts.n_unique() < multiple.n_unique() and not parts.str.contains(r"[\[\]()]").any():
                return separator
        return None

    @cached_property
    def width(self) -> int | None:
        """Length of the lists, where all are equally long and hold fractions."""
        if self.kind != "list" or not len(self.values) or not self.values.list.explode().dtype.is_float():
            return None
        lengths = self.values.list.len().unique()
        return int(lengths[0]) if len(lengths) == 1 and lengths[0] else None

    def evidence(self) -> str:
        """Cardinality, missing share and examples, for a comment."""
        examples = [str(v) for v in self.values.head(2000).unique(maintain_order=True).head(3)] if self.unique else []
        if self.kind == "list":
            examples = [str(value.to_list()[:4]) for value in self.values.head(2)]
        count = f"{self.unique:,} value{'s' if self.unique != 1 else ''}" if self.unique else "lists"
        shown = ", ".join(" ".join(text.split())[:24] for text in examples)
        return f"{count}, {self.missing:.1%} missing, e.g. {shown}"


def profile(series: pl.Series) -> Column:
    """Look at a column; texts that are all numbers count as numbers, 3.0 as an integer."""
    values = series.drop_nulls()
    nulls: tuple[str, ...] = ()
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        nulls = tuple(text for text in NULL_TEXTS if (values == text).any())
        values = values.filter(~values.is_in(["", *nulls]))
        numbers = values.cast(pl.Float64, strict=False)
        if len(values) and numbers.null_count() == 0:
            values = numbers
    if values.dtype.is_float():
        values = values.filter(values.is_finite())
        if len(values) and ((values == values.floor()) & (values.abs() < 2**53)).all():
            values = values.cast(pl.Int64)
    return Column(series.name, series, values, _kind(values.dtype), nulls)


def _kind(dtype: pl.DataType) -> Kind:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.Categorical, pl.Enum, pl.String):
        return "text"
    if dtype in (pl.Datetime, pl.Date):
        return "time"
    if dtype in (pl.List, pl.Array):
        return "list"
    if dtype.is_integer():
        return "integer"
    return "number" if dtype.is_numeric() else "other"
