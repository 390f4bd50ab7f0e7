"""Counts of values that have no row of an embedding table yet, kept so that later days can give them one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.data.encoding.arrays import read_arrays, write_arrays
from unimixer.data.encoding.statistics import Statistics
from unimixer.data.encoding.vocabulary import Counter, Vocabulary
from unimixer.data.raw.values import canonical
from unimixer.errors import UnimixerError

FILE = "pending.arrow"
Pending = Mapping[str, pl.DataFrame]
"""By embedding table, in the order of the texts: ``text``, ``count`` (of rows that train) and ``held_out``."""

_SCHEMA = {"table": pl.String, "text": pl.String, "count": pl.Int64, "held_out": pl.Int64}


def counted(vocabularies: Mapping[str, Vocabulary], statistics: Statistics, earlier: Pending | None = None) -> Pending:
    """Count the values without a row; held-out rows of earlier days train from now on.

    Args:
        vocabularies: before they grow.
        statistics: of the newest days.
        earlier: the counts of the days before.
    """
    counts = {}
    for name, vocabulary in vocabularies.items():
        if vocabulary.num_buckets or name not in statistics.counters:  # every hash has a row, and so has every bucket
            continue
        parts = [
            _frame(vocabulary, counter, column)
            for counter, column in ((statistics.counters[name], "count"), (statistics.held_out[name], "held_out"))
        ]
        if earlier is not None and name in earlier:
            parts.append(
                earlier[name].select(
                    "text", count=pl.col("count") + pl.col("held_out"), held_out=pl.lit(0, dtype=pl.Int64)
                )
            )
        total = pl.concat(parts).group_by("text").agg(pl.col("count", "held_out").sum())
        counts[name] = without_rows(total, vocabulary)
    return counts


def without_rows(counts: pl.DataFrame, vocabulary: Vocabulary) -> pl.DataFrame:
    """Return the counts of those values that a vocabulary does not know."""
    return counts.filter(~pl.col("text").is_in(vocabulary.texts.implode())).sort("text")


def _frame(vocabulary: Vocabulary, counter: Counter, column: str) -> pl.DataFrame:
    frame = counter.counts()
    texts = canonical(frame.get_column("text"), vocabulary.form)
    counts = {"count": pl.lit(0, dtype=pl.Int64), "held_out": pl.lit(0, dtype=pl.Int64), column: pl.col("count")}
    return frame.with_columns(texts.alias("text")).select("text", **counts)


def save_pending(folder: Path, pending: Pending) -> None:
    """Write the counts of all tables into one file."""
    frames = [frame.select(pl.lit(name).alias("table"), pl.all()) for name, frame in pending.items()]
    frame = pl.concat([pl.DataFrame(schema=_SCHEMA), *frames])
    texts = {name: frame.get_column(name).to_arrow().cast("large_string") for name in ("table", "text")}
    write_arrays(
        folder / FILE, {**texts, **{name: frame.get_column(name).to_numpy() for name in ("count", "held_out")}}
    )


def load_pending(folder: Path) -> Pending:
    """Read what :func:`save_pending` wrote."""
    if not (folder / FILE).exists():
        raise UnimixerError(
            f"{folder} has no {FILE}: an older version prepared it without the counts of unknown values; "
            "prepare it again to append days"
        )
    columns: dict[str, Any] = read_arrays(folder / FILE)
    frame = pl.DataFrame({name: pl.Series(name, columns[name], dtype=kind) for name, kind in _SCHEMA.items()})
    parts = frame.partition_by("table", as_dict=True, maintain_order=True, include_key=False)
    return {str(key[0]): part for key, part in parts.items()}
