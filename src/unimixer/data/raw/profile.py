"""Profile the columns of a sample of raw rows: kind, missing share, cardinality, form of time, separator of lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from unimixer.data.file_settings import Files
from unimixer.data.raw.csv_files import CsvFile, like_values
from unimixer.data.raw.folders import partition_of
from unimixer.data.raw.parquet_files import ParquetFile
from unimixer.data.raw.readers import open_table, read_chunks
from unimixer.data.time_format import TimeForm, time_form
from unimixer.errors import UnimixerError

Kind = Literal["integer", "number", "text", "boolean", "time", "list", "other"]
NULL_TEXTS = ("NULL", "null", "NaN", "nan", "None", "none", "NA", "N/A", "n/a", "\\N")
FRACTION = r"^[-+]?\d*\.\d+([eE][-+]?\d+)?$"
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

    @property
    def stray_text(self) -> str | None:
        """The first text that is no number where nearly all values are numbers with a point, else None."""
        if self.kind != "text" or not len(self.values):
            return None
        if self.values.str.contains(FRACTION).sum() < 0.9 * len(self.values):
            return None
        others = self.values.filter(self.values.str.strip_chars().cast(pl.Float64, strict=False).is_null())
        return str(others[0])[:24] if len(others) else None

    @cached_property
    def time(self) -> TimeForm | None:
        """Form of time of the values, or None."""
        if self.kind == "time":
            return TimeForm("ms")  # typed: no format is needed
        return time_form(self.values) if self.kind in ("integer", "number", "text") else None

    @cached_property
    def separator(self) -> str | None:
        """Separator of a multi-valued text, whose parts recur more often than the whole texts."""
        if self.kind != "text" or not len(self.values) or self.time is not None:
            return None
        if self.is_json:
            return ","
        for separator in SEPARATORS:
            multiple = self.values.filter(self.values.str.contains(separator, literal=True))
            if len(multiple) < max(2, 0.02 * len(self.values)):
                continue
            parts = multiple.str.split(separator).explode()
            if parts.n_unique() < multiple.n_unique() and not parts.str.contains(r"[\[\]()]").any():
                return separator
        return None

    @cached_property
    def is_json(self) -> bool:
        """Whether every text is a list in JSON of plain values; pairs of ascending numbers are ranges."""
        if not self.values.str.contains(r"^\[.*\]$").all():
            return False
        try:
            lists = [json.loads(text) for text in self.values.head(10_000)]
        except ValueError:
            return False
        if any(isinstance(value, (list, dict)) for values in lists for value in values):
            return False
        return not all(len(v) == 2 and all(isinstance(n, int | float) for n in v) and v[0] <= v[1] for v in lists)

    @cached_property
    def is_vector(self) -> bool:
        """Whether every text is a list in JSON of fractions, all equally long."""
        if not self.is_json:
            return False
        lists = [json.loads(text) for text in self.values.head(1000)]
        fractions = any(isinstance(number, float) for values in lists for number in values)
        return fractions and len({len(values) for values in lists}) == 1

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
        shown = ", ".join(printable(" ".join(text[:99].split()))[:24] for text in examples)
        return f"{count}, {self.missing:.1%} missing, e.g. {shown}"


def printable(text: str) -> str:
    """Escape the characters of a text that YAML does not accept as they are."""
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text
    )


def profile(series: pl.Series, *, category: bool = False) -> Column:
    """Profile a column; texts that are all numbers count as numbers, 3.0 as an integer.

    Args:
        series: the raw values.
        category: the file says that they are categories, whatever they look like.
    """
    values = series.drop_nulls()
    nulls: tuple[str, ...] = ()
    if values.dtype in (pl.Categorical, pl.Enum) or (category and values.dtype.is_integer()):
        category, values = True, values.cast(pl.String)
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        nulls = tuple(text for text in NULL_TEXTS if (values == text).any())
        values = values.filter(~values.is_in(["", *nulls]))
        values = values if category else _typed(values)
    if values.dtype.is_decimal():
        whole = values.cast(pl.Int64, strict=False)
        values = whole if whole.cast(values.dtype, strict=False).equals(values) else values.cast(pl.Float64)
    if values.dtype.is_float():
        values = values.filter(values.is_finite())
        if len(values) and ((values == values.floor()) & (values.abs() < 2**53)).all():
            values = values.cast(pl.Int64)
    return Column(series.name, series, values, _kind(values.dtype), nulls)


def _typed(texts: pl.Series) -> pl.Series:
    """Convert texts to truth values, integers or numbers if all fit; digits that a type would change stay text."""
    if not len(texts):
        return texts
    lower = texts.str.to_lowercase()
    if lower.is_in(["true", "false"]).all():
        return lower == "true"
    if texts.str.contains(r"^[+-]?\d+$").all():
        if texts.str.contains(r"^[+-]?0\d").any():
            return texts
        for dtype in (pl.Int64, pl.UInt64):
            whole = texts.cast(dtype, strict=False)
            if whole.null_count() == 0:
                return whole
        return texts
    numbers = texts.cast(pl.Float64, strict=False)
    return texts if numbers.null_count() else numbers


def _kind(dtype: Any) -> Kind:
    if dtype == pl.Boolean:
        return "boolean"
    if dtype == pl.String:
        return "text"
    if dtype in (pl.Datetime, pl.Date):
        return "time"
    if isinstance(dtype, (pl.List, pl.Array)):
        plain = not dtype.inner.is_nested() and dtype.inner != pl.Null and _kind(dtype.inner) != "other"
        return "list" if plain or dtype.inner in (pl.Categorical, pl.Enum) else "other"
    if dtype.is_integer():
        return "integer"
    return "number" if dtype.is_numeric() else "other"


# ---- the sample -----------------------------------------------------------------------------------------------------

SAMPLE_ROWS = 200_000


@dataclass(frozen=True)
class Sample:
    """Some rows of a table."""

    file: Path
    """The first file that has rows."""
    frame: pl.DataFrame
    categories: frozenset[str]
    """Columns that the file calls categories."""
    left: dict[str, str]
    """Columns that were not read, and why."""

    def columns(self) -> list[Column]:
        """Profile all columns."""
        return [profile(series, category=series.name in self.categories) for series in self.frame.get_columns()]


def take_sample(paths: Sequence[Path], files: Files) -> Sample:
    """Read the first rows of the files of one table.

    Raises:
        UnimixerError: there is no row; or the first line of a CSV file looks like values.
    """
    for path in paths:
        table = open_table(path, files)
        left = dict.fromkeys(table.duplicates(), "appears twice")
        categories = frozenset[str]()
        if isinstance(table, ParquetFile):
            left |= {name: f"type {kind} is not read" for name, kind in table.unreadable().items()}
            categories = frozenset(table.categories())
        names = [name for name in (*table.names, *partition_of(path)) if name not in left]
        frames: list[pl.DataFrame] = []
        # later files may have other columns or types: a sample of one file is of one kind
        for chunk in read_chunks([path], columns=[], optional=names, files=files, or_empty=True):
            frames.append(chunk.frame)
            if sum(frame.height for frame in frames) >= SAMPLE_ROWS:
                break
        frame = pl.concat(frames).head(SAMPLE_ROWS)
        if frame.height:
            if isinstance(table, CsvFile) and files.header is None:
                _check_header(table, frame)
            return Sample(path, frame, categories, left)
    raise UnimixerError(f"{', '.join(map(str, paths))}: no rows, expected at least one")


def _check_header(table: CsvFile, frame: pl.DataFrame) -> None:
    """Raise if the names look like values: numbers or dates, or values that recur below them."""
    again = [name for name in frame.columns if (frame.get_column(name) == name).any()]
    if like_values(table.names) or len(again) * 2 > len(frame.columns):
        raise UnimixerError(
            f"{table.path}: the first line looks like values ({', '.join(table.names[:6])}), not like names; if the "
            "file has no header line, name its columns: header=user_id,item_id,...; else rename those that are numbers"
        )
