"""Match the keys of a log with the keys of its entity tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.encoding.entities import FIRST_ROW
from unimixer.errors import UnimixerError

EXAMPLES = 2
LOW = 0.5
"""Share below which examples of both sides are shown."""
WAYS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "without leading zeros": lambda keys: keys.str.replace(r"^0+(\d)", "${1}"),
    "in lower case": lambda keys: keys.str.to_lowercase(),
    "without blanks": lambda keys: keys.str.replace_all(r"\s", ""),
    "by the number at their end": lambda keys: keys.str.extract(r"(\d+)$").str.replace(r"^0+(\d)", "${1}"),
}
"""Changes that make one key of two writings of it."""


@dataclass(frozen=True)
class Match:
    """Counts of the different keys of a log or a snapshot, and of those that a table has.

    Args:
        table: users or items.
        named_by: what names the keys.
        keys: number of different keys.
        keys_met: those that the table has.
        rows: how often a key is named, in the training part.
        rows_met: those whose key the table has.
        absent: examples of keys that the table does not have.
        unnamed: examples of keys of the table that are never named.
    """

    table: str
    named_by: str
    keys: int
    keys_met: int
    rows: int
    rows_met: int
    absent: list[str]
    unnamed: list[str]

    def __str__(self) -> str:
        keys, rows = self.keys_met / max(1, self.keys), self.rows_met / max(1, self.rows)
        text = (
            f"{self.table}: {keys:.1%} of the {self.keys:,} keys of {self.named_by} are known ({rows:.1%} of the rows)"
        )
        if min(keys, rows) >= LOW or not self.keys:
            return text
        return f"{text}; not known: {_shown(self.absent)}; never named: {_shown(self.unnamed)}"


def match(
    table: str,
    named_by: str,
    keys: pl.Series,
    named: NDArray[np.int32],
    known: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> Match:
    """Compare named keys with the keys of a table.

    Args:
        table: users or items.
        named_by: what names the keys.
        keys: all keys, the first of row 2.
        named: different rows of the keys that are named.
        known: different rows of the keys of the table.
        counts: how often each of the named is named.

    Raises:
        UnimixerError: not one of the named keys stands in the table.
    """
    met = np.isin(named, known)
    here, there = keys.gather(named[~met] - FIRST_ROW), keys.gather(np.setdiff1d(known, named) - FIRST_ROW)
    absent, unnamed = here.head(EXAMPLES).to_list(), there.head(EXAMPLES).to_list()
    if len(named) and not met.any():
        raise UnimixerError(
            f"{table}: none of the {len(named):,} keys of {named_by}, such as {_shown(absent)}, is one of the "
            f"{len(known):,} known, such as {_shown(unnamed)}; {_hint(here, there)}"
        )
    rows, rows_met = int(counts.sum()), int(counts[met].sum())
    return Match(table, named_by, len(named), int(met.sum()), rows, rows_met, absent, unnamed)


def _shown(keys: list[str]) -> str:
    return " and ".join(map(repr, keys)) or "none"


def _hint(here: pl.Series, there: pl.Series) -> str:
    for way, change in WAYS.items():
        if set(change(here).drop_nulls()) & set(change(there).drop_nulls()):
            return f"they meet {way}, so write the keys of both alike"
    return "write the keys of both alike, or leave the table out"
