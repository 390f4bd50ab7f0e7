"""Convert rows in memory, of any common type, to one polars frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from unimixer.errors import UnimixerError

FORMS = (
    "a polars or pandas frame, an Arrow table or record batch, a mapping of columns, a sequence of mappings (rows), "
    "or the path of a file or folder"
)
"""What a caller may give."""


def frame_of(rows: Any) -> pl.DataFrame:
    """Convert rows in memory to a frame; the index of a pandas frame is left out, and NaN among texts is missing.

    No library but polars is imported: other frames are asked for the Arrow stream that they offer.

    Raises:
        UnimixerError: for anything else, and for columns that a frame cannot have.

    Example:
        >>> frame_of([{"user_id": 1, "item_id": "a"}, {"user_id": 2}]).rows()
        [(1, 'a'), (2, None)]
    """
    try:
        if isinstance(rows, pl.DataFrame):
            return rows
        if isinstance(rows, pl.LazyFrame):
            return rows.collect()
        if _module(rows) == "pandas" and type(rows).__name__ == "DataFrame":
            return _without_nan_texts({str(name): rows[name] for name in _once(rows.columns)}, rows.shape[0])
        if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
            return pl.DataFrame(rows)
        if isinstance(rows, Mapping):
            return _columns(rows)
        if (
            isinstance(rows, Sequence)
            and not isinstance(rows, str | bytes)
            and all(isinstance(r, Mapping) for r in rows)
        ):
            names = dict.fromkeys(name for row in rows for name in row)
            return _columns({name: [row.get(name) for row in rows] for name in names})
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        if isinstance(error, UnimixerError):
            raise
        raise UnimixerError(f"rows: these columns make no table ({str(error).splitlines()[0]})") from error
    raise UnimixerError(f"rows: expected {FORMS}; found {type(rows).__module__}.{type(rows).__qualname__}")


def _columns(columns: Mapping[Any, Any]) -> pl.DataFrame:
    """Convert a mapping of columns; a mapping of single values is one row."""
    single = [
        name for name, values in columns.items() if isinstance(values, str | bytes) or not hasattr(values, "__len__")
    ]
    if single and len(single) < len(columns):
        other = next(name for name in columns if name not in single)
        raise UnimixerError(f"rows: column {single[0]!r} is one value and column {other!r} a list; give lists of all")
    whole = {str(name): [values] if single else values for name, values in columns.items()}
    lengths = {name: len(values) for name, values in whole.items()}
    first = next(iter(lengths), "")
    wrong = next((name for name in lengths if lengths[name] != lengths[first]), None)
    if wrong is not None:
        raise UnimixerError(
            f"rows: column {first!r} has {lengths[first]:,} values and column {wrong!r} {lengths[wrong]:,}; "
            "give as many of each"
        )
    return _without_nan_texts(whole, lengths.get(first, 0))


def _without_nan_texts(columns: Mapping[str, Any], rows: int) -> pl.DataFrame:
    """Convert columns to series; NaN in an object column is missing."""
    series = []
    for name, values in columns.items():
        if isinstance(values, list | tuple) or str(getattr(values, "dtype", "")) == "object":
            plain = [None if isinstance(v, float | np.floating) and v != v else v for v in values]
            kinds = {type(v) for v in plain if v is not None}
            if kinds == {int, float}:
                plain = [None if v is None else float(v) for v in plain]
            elif kinds == {int, str}:  # ids, of which some look like numbers
                plain = [None if v is None else str(v) for v in plain]
            series.append(_series(name, plain))
        else:
            series.append(_series(name, values))
    return pl.DataFrame(series) if series else pl.DataFrame(height=rows)


def _series(name: str, values: Any) -> pl.Series:
    try:
        if hasattr(values, "__arrow_c_stream__"):
            return pl.Series(values).alias(name)
        return pl.Series(name, values)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise UnimixerError(f"rows: column {name!r} has values of no one type ({reason}); make them alike") from error


def _once(names: Any) -> list[Any]:
    """Return the names of columns; raise if two are equal."""
    unique = list(names)
    twice = next((name for name in unique if unique.count(name) > 1), None)
    if twice is not None:
        raise UnimixerError(f"rows: column {twice!r} is there twice; rename one of them")
    return unique


def _module(value: object) -> str:
    return type(value).__module__.partition(".")[0]
