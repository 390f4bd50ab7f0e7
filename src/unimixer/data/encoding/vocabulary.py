"""Map values to rows of an embedding table: 0 is missing, 1 unknown, known values follow by falling count."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.times import as_time, time_part
from unimixer.data.raw.values import Form, canonical, canonical_text, form_of, text_column
from unimixer.data.schema import FIRST_ID, OOV_ID, PADDING_ID, Feature, Keys, Schema
from unimixer.data.schema import Vocabulary as Policy

MERGE_AT = 4_000_000
"""Rows of counts that wait at most before they are added up."""
FEW = 512
"""Texts up to which a lookup asks a dictionary: a join reads the whole vocabulary, however few texts it is for."""


def texts_of(feature: Feature, chunk: Chunk, keys: Keys) -> pl.Series:
    """Return the canonical texts of a categorical feature, which a vocabulary counts and looks up."""
    if feature.transform in ("hour", "weekday"):
        times = as_time(chunk, keys.model_copy(update={"time": feature.column}))
        return time_part(times, feature.transform, keys.timezone)
    return text_column(chunk, feature.column, feature.missing)


def never_boolean(schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> frozenset[str]:
    """Return the names of the id features whose training values are others than 0, 1, true and false."""
    columns: dict[str, set[str]] = {}
    for feature in schema.features:
        columns.setdefault(feature.table_name, set()).add(feature.column)
    # an empty table knows nothing, and the form of a table of several columns is not that of each
    known = {name for name, table in vocabularies.items() if table.num_buckets or len(table.texts)}
    others = {name for name in known if vocabularies[name].form != "boolean" and len(columns.get(name, ())) == 1}
    return frozenset(
        feature.name for feature in schema.features if feature.table_name in others and feature.transform != "bucketise"
    )


class Counter:
    """Counts texts chunk by chunk; memory grows with the number of different texts."""

    typed = False
    """Whether a column type said that values are numbers with decimals, or times."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._pending = 0

    def add(self, texts: pl.Series, weights: NDArray[np.int64] | None = None) -> None:
        """Count every text once, or ``weights`` times; texts of weight 0 are not counted."""
        counts = np.ones(len(texts), dtype=np.int64) if weights is None else weights
        frame = pl.DataFrame({"text": texts, "count": counts})
        part = (
            frame.filter(pl.col("text").is_not_null() & (pl.col("count") > 0))
            .group_by("text")
            .agg(pl.col("count").sum())
        )
        self._parts.append(part)
        self._pending += part.height
        if self._pending > MERGE_AT:
            self._merge()

    def counts(self) -> pl.DataFrame:
        """Return the columns ``text`` and ``count``."""
        self._merge()
        return self._parts[0]

    @classmethod
    def merge(cls, counters: Sequence[Counter]) -> Counter:
        """Add up the counts of several counters."""
        merged = cls()
        merged._parts = [counter.counts() for counter in counters]
        merged.typed = any(counter.typed for counter in counters)
        merged._merge()
        return merged

    def _merge(self) -> None:
        self._parts, self._pending = [_added(self._parts)], 0


def _added(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    empty = pl.DataFrame({"text": pl.Series([], dtype=pl.String), "count": pl.Series([], dtype=pl.Int64)})
    return pl.concat([empty, *parts]).group_by("text").agg(pl.col("count").sum())


@dataclass(frozen=True)
class Vocabulary:
    """A fitted embedding table's rows.

    Args:
        texts: known values in the order of their rows, most frequent first (empty for a hashed table).
        num_buckets: number of hash buckets, 0 for a table of known values.
        form: what the values of the training part are. Other texts of the same value find its row; the known texts
            are canonical.
    """

    texts: pl.Series = field(default_factory=lambda: pl.Series("text", [], dtype=pl.String))
    num_buckets: int = 0
    form: Form = "text"

    @classmethod
    def fit(cls, counter: Counter, policy: Policy) -> Vocabulary:
        """Keep the values that the policy asks for; equal counts are ordered by text, so the result is stable."""
        counts = counter.counts()
        texts = counts.get_column("text")
        form = form_of(texts, typed=counter.typed)
        if policy.policy == "hash":
            return cls(num_buckets=policy.num_buckets or 0, form=form)
        if (one := canonical(texts, form)) is not texts:
            counts = _added([counts.with_columns(one.alias("text"))])
        counts = counts.filter(pl.col("count") >= policy.min_count).sort(["count", "text"], descending=[True, False])
        return cls(counts.head(policy.max_size or counts.height).get_column("text"), form=form)

    def grown(self, counts: pl.DataFrame, policy: Policy) -> Vocabulary:
        """Append the values that the policy asks for by now, most frequent first; known values keep their rows."""
        new = counts.filter(pl.col("count") >= policy.min_count).sort(["count", "text"], descending=[True, False])
        room = new.height if policy.max_size is None else max(0, policy.max_size - len(self.texts))
        texts = pl.concat([self.texts.rename("text"), new.head(room).get_column("text")])
        return replace(self, texts=texts)

    @property
    def num_embeddings(self) -> int:
        """Number of rows of the table, padding and out-of-vocabulary included."""
        return FIRST_ID + (self.num_buckets or len(self.texts))

    def lookup(self, texts: pl.Series) -> NDArray[np.int32]:
        """Return the row of every text; null is 0, unknown is 1."""
        if len(texts) <= FEW and not self.num_buckets:
            return np.asarray([self._row(text) for text in texts.to_list()], dtype=np.int32)
        if self.num_buckets:
            known = texts.drop_nulls().unique()
            hashes = [_hash(text, self.num_buckets) for text in canonical(known, self.form)]
            return _joined(texts, known, pl.Series(hashes, dtype=pl.Int32))
        known, rows = self.texts, pl.arange(FIRST_ID, FIRST_ID + len(self.texts), dtype=pl.Int32, eager=True)
        numbers = _joined(texts, known, rows)
        unknown = numbers == OOV_ID
        if self.form != "text" and unknown.any():
            others = texts.filter(pl.Series(unknown))
            if (one := canonical(others, self.form)) is not others:
                numbers = numbers.copy()
                numbers[unknown] = _joined(one, known, rows)
        return numbers

    def _row(self, text: str | None) -> int:
        if text is None:
            return PADDING_ID
        row = self._rows.get(text)
        if row is None:
            row = OOV_ID if self.form == "text" else self._rows.get(canonical_text(text, self.form), OOV_ID)
        return row

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: FIRST_ID + row for row, text in enumerate(self.texts.to_list())}


def _joined(texts: pl.Series, known: pl.Series, rows: pl.Series) -> NDArray[np.int32]:
    table = pl.DataFrame({"text": known, "row": rows})
    joined = pl.DataFrame({"text": texts}).join(table, on="text", how="left", maintain_order="left")
    default = pl.when(pl.col("text").is_null()).then(PADDING_ID).otherwise(OOV_ID)
    return joined.select(pl.col("row").fill_null(default).cast(pl.Int32)).to_series().to_numpy()


def _hash(text: str, num_buckets: int) -> int:
    """Hash a text the same way on every machine and in every version."""
    return FIRST_ID + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % num_buckets
