"""Read raw columns of lists (typed, JSON, or text with a separator) and of pretrained vectors."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.values import as_text, column, require
from unimixer.data.schema import Feature
from unimixer.errors import UnimixerError

_BARE = r"[^\s\[\]{}()\"',]+"
_TOKEN = rf"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|{_BARE}"
_LIST = rf"\[\s*(?:(?:{_TOKEN})(?:\s*,\s*(?:{_TOKEN}))*)?\s*\]"
_BARE_LIST = rf"^\[\s*(?:{_BARE}(?:\s*,\s*{_BARE})*)?\s*\]$"
_NULLS = ["null", "None", "nan", "NaN"]


def as_lists(chunk: Chunk, feature: Feature) -> pl.Series:
    """Return a list of texts for every row, the last or first ``max_length`` of them; missing values are left out."""
    lists = _raw_lists(chunk, feature)
    lengths = lists.list.len().fill_null(0).to_numpy()
    texts = as_text(lists.filter(pl.Series(lengths > 0)).explode(), feature.missing, source=chunk.source)
    grouped = (
        pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "text": texts})
        .filter(pl.col("text").is_not_null())
        .group_by("row", maintain_order=True)
        .agg(_kept(pl.col("text"), feature))
    )
    rows = pl.DataFrame({"row": np.arange(len(lengths))})
    joined = rows.join(grouped, on="row", how="left", maintain_order="left")
    return joined.select(pl.col("text").fill_null(pl.lit([], dtype=pl.List(pl.String)))).to_series()


def _kept(values: pl.Expr, feature: Feature) -> pl.Expr:
    return values.tail(feature.max_length) if feature.keep == "last" else values.head(feature.max_length)


def flat_texts(lists: pl.Series) -> pl.Series:
    """Return the texts of all lists, one after the other."""
    return lists.filter(lists.list.len() > 0).explode().cast(pl.String)


def _raw_lists(chunk: Chunk, feature: Feature) -> pl.Series:
    series = column(chunk, feature.column)
    where = f"{chunk.source}: sequence {feature.name!r} reads column {feature.column!r} of type {series.dtype}"
    if isinstance(series.dtype, (pl.List, pl.Array)):
        if series.dtype.inner.is_nested():
            raise UnimixerError(f"{where}; expected lists of plain values")
        return series.cast(pl.List(series.dtype.inner))
    if series.dtype == pl.Null:
        return series.cast(pl.List(pl.String))
    if series.dtype.is_nested():
        raise UnimixerError(f"{where}; expected lists of plain values")
    texts = series.cast(pl.String)
    written = _written_lists(chunk, feature, texts)
    if feature.separator is not None:
        return (
            texts.str.split(feature.separator)
            if written is None
            else written.fill_null(texts.str.split(feature.separator))
        )
    empty = texts.is_null() | (texts.str.strip_chars() == "")
    if not (empty if written is None else empty | written.is_not_null()).all():
        raise UnimixerError(f"{where}; give it a separator, or write lists")
    return written if written is not None else pl.Series([[]], dtype=pl.List(pl.String)).new_from_index(0, len(texts))


def _written_lists(chunk: Chunk, feature: Feature, texts: pl.Series) -> pl.Series | None:
    """Read lists in JSON, or as Python prints them; null where a text is not a list, None if no text is."""
    texts = texts.str.strip_chars()
    opened, closed = texts.str.starts_with("["), texts.str.ends_with("]")
    if not (opened | closed).any():
        return None
    way_out = f'write lists of plain values, for example [3, 17] or ["a", "b"], for sequence {feature.name!r}'
    cut = (opened & ~texts.str.contains("]", literal=True)) | (closed & ~texts.str.contains("[", literal=True))
    require(chunk, texts, ~cut.fill_null(False), "is a list without one of its brackets", way_out)
    bare = (opened & closed & texts.str.contains(_BARE_LIST)).fill_null(False)
    split = texts.str.slice(1, texts.str.len_chars() - 2).str.split(",")
    entry = pl.element().str.strip_chars()
    known = split.list.eval(pl.when(entry.is_in(_NULLS)).then(None).otherwise(entry))
    lists_read = pl.select(pl.when(bare).then(known)).to_series()
    others = (opened & closed).fill_null(False) & ~bare
    if others.any():
        different = texts.filter(others).unique()
        lists = {text: _read_list(text) for text in different}
        require(
            chunk,
            texts,
            ~others | texts.is_in([t for t, v in lists.items() if v is not None]).fill_null(False),
            "is not one list of plain values",
            way_out,
        )
        lists_read = lists_read.fill_null(pl.Series([lists.get(text) for text in texts], dtype=pl.List(pl.String)))
    return lists_read


def _read_list(text: str) -> list[str | None] | None:
    """Return the values of a list with quoted texts, or None if it is not a list of plain values."""
    if re.fullmatch(_LIST, text) is None:
        return None
    try:
        return [_read_token(token) for token in re.findall(_TOKEN, text[1:-1])]
    except ValueError:
        return None


def _read_token(token: str) -> str | None:
    if token[0] not in "\"'":
        return None if token in _NULLS else token
    if token[0] == "'":
        token = '"' + token[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    text: str = json.loads(token, strict=False)
    return text


def as_vectors(chunk: Chunk, feature: Feature) -> NDArray[np.float32]:
    """Return pretrained vectors (rows, width), all NaN for a row without one."""
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
    require(
        chunk,
        series,
        lengths.is_null() | (lengths == width),
        f"is not a vector of {width} numbers",
        f"feature {feature.name!r} declares width={width}; leave the value empty in rows without a vector",
    )
    known = lists.is_not_null().to_numpy()
    if known.any():
        out[known] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    whole = np.isfinite(out).all(1) | np.isnan(out).all(1)
    require(chunk, series, pl.Series(whole), "holds a number that is missing or infinite", "leave out the whole vector")
    return out
