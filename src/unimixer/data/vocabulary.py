"""Values to rows of an embedding table: 0 is missing, 1 is unknown, known values follow by falling count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.schema import FIRST_ID, OOV_ID, PADDING_ID
from unimixer.data.schema import Vocabulary as Policy

MERGE_AT = 4_000_000
"""Rows of counts that wait at most before they are added up."""
FEW = 512
"""Texts up to which a lookup asks a dictionary: a join reads the whole vocabulary, however few texts it is for."""


class Counter:
    """Counts of texts, added up chunk by chunk; memory grows with the number of different texts."""

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
        """Columns ``text`` and ``count``."""
        self._merge()
        return self._parts[0]

    @classmethod
    def merge(cls, counters: Sequence[Counter]) -> Counter:
        """The counts of all together."""
        merged = cls()
        merged._parts = [counter.counts() for counter in counters]
        merged._merge()
        return merged

    def _merge(self) -> None:
        empty = pl.DataFrame({"text": pl.Series([], dtype=pl.String), "count": pl.Series([], dtype=pl.Int64)})
        merged = pl.concat([empty, *self._parts]).group_by("text").agg(pl.col("count").sum())
        self._parts, self._pending = [merged], 0


@dataclass(frozen=True)
class Vocabulary:
    """A fitted embedding table's rows.

    Args:
        texts: known values in the order of their rows, most frequent first (empty for a hashed table).
        num_buckets: number of hash buckets, 0 for a table of known values.
    """

    texts: pl.Series = field(default_factory=lambda: pl.Series("text", [], dtype=pl.String))
    num_buckets: int = 0

    @classmethod
    def fit(cls, counter: Counter, policy: Policy) -> Vocabulary:
        """Keep the values that the policy asks for; ties in count are broken by the text, so the result is stable."""
        if policy.policy == "hash":
            return cls(num_buckets=policy.num_buckets or 0)
        counts = (
            counter.counts()
            .filter(pl.col("count") >= policy.min_count)
            .sort(["count", "text"], descending=[True, False])
        )
        return cls(texts=counts.head(policy.max_size or counts.height).get_column("text"))

    @property
    def num_embeddings(self) -> int:
        """Rows of the table, padding and out-of-vocabulary included."""
        return FIRST_ID + (self.num_buckets or len(self.texts))

    def lookup(self, texts: pl.Series) -> NDArray[np.int32]:
        """The row of every text; null is 0, unknown is 1."""
        if len(texts) <= FEW and not self.num_buckets:
            rows_of = self._rows
            return np.asarray(
                [PADDING_ID if text is None else rows_of.get(text, OOV_ID) for text in texts.to_list()], dtype=np.int32
            )
        if self.num_buckets:
            known = texts.drop_nulls().unique()
            rows = pl.Series([_hash(text, self.num_buckets) for text in known], dtype=pl.Int32)
        else:
            known, rows = self.texts, pl.arange(FIRST_ID, FIRST_ID + len(self.texts), dtype=pl.Int32, eager=True)
        table = pl.DataFrame({"text": known, "row": rows})
        found = pl.DataFrame({"text": texts}).join(table, on="text", how="left", maintain_order="left")
        default = pl.when(pl.col("text").is_null()).then(PADDING_ID).otherwise(OOV_ID)
        return found.select(pl.col("row").fill_null(default).cast(pl.Int32)).to_series().to_numpy()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: FIRST_ID + row for row, text in enumerate(self.texts.to_list())}


def _hash(text: str, num_buckets: int) -> int:
    """A hash that is the same on every machine and in every version."""
    return FIRST_ID + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % num_buckets
