"""Tables of users and items: map keys to rows, and keep encoded features once instead of in every impression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Array, Ragged
from unimixer.data.raw import values
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import FIRST_ID, OOV_ID, PADDING_ID
from unimixer.errors import UnimixerError

MISSING_ROW, UNKNOWN_ROW, FIRST_ROW = PADDING_ID, OOV_ID, FIRST_ID
"""Rows of an entity table follow the rule of embedding tables: 0 has no key, 1 has a key that is not known."""


class KeyIndex:
    """Maps text keys to rows and grows while a log is read."""

    def __init__(self, keys: pl.Series | None = None) -> None:
        self._table = pl.DataFrame({"key": pl.Series([], dtype=pl.String), "row": pl.Series([], dtype=pl.Int32)})
        if keys is not None:
            self.add(keys)

    def __len__(self) -> int:
        return FIRST_ROW + self._table.height

    @property
    def keys(self) -> pl.Series:
        """Known keys, in the order of their rows (the first is row 2)."""
        return self._table.get_column("key")

    def add(self, keys: pl.Series) -> None:
        """Give every new key the next row, in order of appearance."""
        fresh = pl.DataFrame({"key": keys.drop_nulls().unique(maintain_order=True)}).join(
            self._table, on="key", how="anti", maintain_order="left"
        )
        rows = pl.arange(len(self), len(self) + fresh.height, dtype=pl.Int32, eager=True)
        self._table = pl.concat([self._table, fresh.with_columns(rows.alias("row"))], rechunk=True)

    def lookup(self, keys: pl.Series) -> NDArray[np.int32]:
        """Return the row of every key."""
        joined = pl.DataFrame({"key": keys}).join(self._table, on="key", how="left", maintain_order="left")
        default = pl.when(pl.col("key").is_null()).then(MISSING_ROW).otherwise(UNKNOWN_ROW)
        return joined.select(pl.col("row").fill_null(default).cast(pl.Int32)).to_series().to_numpy()


class EntityLog:
    """Collects the keys of users or of items from a log, and how often each occurs in the training part.

    Args:
        table: the raw entity table, if there is one; its keys come first and in its order.
        key: column of the key, in the table and in the log.
    """

    def __init__(self, table: Chunk | None, key: str | None) -> None:
        self.key, self.table, self.index = key, table, KeyIndex()
        if table is not None and key is not None:
            texts = values.key_column(table, key)
            _check_unique(table, key, texts)
            self.index.add(texts)
        self.train_counts = np.zeros(len(self.index), dtype=np.int64)
        self.held_out_counts = np.zeros(len(self.index), dtype=np.int64)
        self.pieces = np.zeros(len(self.index), dtype=np.int64)
        """The piece of the log in which a key appeared first."""

    def read(self, chunk: Chunk, piece: int = 0, train: NDArray[np.bool_] | None = None) -> NDArray[np.int32] | None:
        """Add the keys of a chunk and count those of the training part, if given; return the row of each."""
        if self.key is None:
            return None
        rows = self.rows_of(values.key_column(chunk, self.key), piece)
        if train is not None:
            self.train_counts += np.bincount(rows[train], minlength=len(self.index))
            self.held_out_counts += np.bincount(rows[~train], minlength=len(self.index))
        return rows

    def rows_of(self, texts: pl.Series, piece: int = 0) -> NDArray[np.int32]:
        """Add keys; return the row of each."""
        self._add(texts, piece)
        return self.index.lookup(texts)

    def _add(self, texts: pl.Series, piece: int) -> None:
        self.index.add(texts)
        new = len(self.index) - len(self.pieces)
        self.pieces = np.concatenate([self.pieces, np.full(new, piece)]) if new else self.pieces
        for counts in (self.train_counts, self.held_out_counts):
            counts.resize(len(self.index), refcheck=False)

    def join(self, log: EntityLog) -> NDArray[np.int32]:
        """Add the keys and counts of another log, new ones at the end and in its order; return their rows.

        Keys of different pieces stand in the order of the pieces only where ``log`` is what :meth:`merge` returned.
        """
        keys = log.index.keys
        self._add(keys, 0)
        rows = np.concatenate([np.arange(FIRST_ROW, dtype=np.int32), self.index.lookup(keys)])
        self.held_out_counts[rows] += log.held_out_counts
        self.train_counts[rows] += log.train_counts  # every key is once in a log, so every row is once in `rows`
        return rows

    @classmethod
    def merge(cls, logs: Sequence[EntityLog]) -> tuple[EntityLog, list[NDArray[np.int32]]]:
        """Merge logs of different pieces, keys in the order of their appearance; return also the rows of each log."""
        merged = cls(None, logs[0].key)
        keys = pl.concat([log.index.keys for log in logs])
        pieces = pl.Series("piece", np.concatenate([log.pieces[FIRST_ROW:] for log in logs]), dtype=pl.Int64)
        # a piece belongs to one log, whose keys are in order: sorting by the piece alone gives the order of the log
        ordered = pl.DataFrame([keys.rename("key"), pieces]).sort("piece", maintain_order=True)
        first = ordered.unique("key", keep="first", maintain_order=True)
        merged.index.add(first.get_column("key"))
        merged.pieces = np.concatenate([np.zeros(FIRST_ROW, dtype=np.int64), first.get_column("piece").to_numpy()])
        merged.train_counts, merged.held_out_counts = np.zeros((2, len(merged.index)), dtype=np.int64)
        return merged, [merged.join(log) for log in logs]

    @property
    def of_table(self) -> NDArray[np.int32]:
        """Rows of the keys that the raw table has."""
        return np.arange(FIRST_ROW, FIRST_ROW + (0 if self.table is None else self.table.frame.height), dtype=np.int32)

    def chunk(self) -> Chunk:
        """Return the raw table in the order of the index; keys that only the log has get no features."""
        if self.key is None:
            return Chunk(pl.DataFrame(), "log")
        keys = self.index.keys.rename(self.key)
        if self.table is None:
            return Chunk(keys.to_frame(), "log")
        frame = self.table.frame.with_columns(keys.head(self.table.frame.height))
        extra = keys.tail(len(keys) - frame.height).to_frame()
        return Chunk(pl.concat([frame, extra], how="diagonal"), self.table.source, self.table.first_row)


def _check_unique(table: Chunk, key: str, texts: pl.Series) -> None:
    missing, again = texts.is_null(), ~texts.is_first_distinct()
    if missing.any():
        raise UnimixerError(f"{table.at(int(missing.arg_max() or 0))}: {key} is missing; every row needs its key")
    if again.any():
        row = int(again.arg_max() or 0)
        first = int((texts == texts[row]).arg_max() or 0)
        raise UnimixerError(
            f"{table.at(row)}: {key}={texts[row]!r} is in row {table.first_row + first} already; "
            "keys must be unique, keep one of the rows"
        )


@dataclass(frozen=True)
class EntityTable:
    """Encoded features of all users or all items.

    Shape:
        - ids: ``(N, F_e)`` int32; dense: ``(N, W_e)`` float32
        - lists[feature]: N lists of int32
        - history_ids: ``(N, C)`` int32, what a history that met this item shows of it (items only)
    """

    index: KeyIndex
    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    lists: dict[str, Ragged] = field(default_factory=dict)
    history_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, Array | Ragged | pa.Array]:
        """Return named columns for a file."""
        keys = pl.concat([pl.Series("key", ["", ""]), self.index.keys.rename("key")]).to_arrow().cast(pa.large_string())
        flat: dict[str, Any] = {"key": keys}
        if self.ids.shape[1]:
            flat["ids"] = self.ids
        if self.dense.shape[1]:
            flat["dense"] = self.dense
        if self.history_ids.shape[1]:
            flat["history_ids"] = self.history_ids
        return flat | {f"list.{name}": ragged for name, ragged in self.lists.items()}

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> EntityTable:
        """Build a table from the columns of :meth:`columns`."""
        keys = pl.Series("key", columns["key"].slice(FIRST_ROW))
        n = len(columns["key"])
        empty = np.zeros((n, 0), dtype=np.int32)
        return cls(
            index=KeyIndex(keys.cast(pl.String)),
            ids=columns.get("ids", empty),
            dense=columns.get("dense", empty.astype(np.float32)),
            lists={k.removeprefix("list."): v for k, v in columns.items() if k.startswith("list.")},
            history_ids=columns.get("history_ids", empty),
        )


def empty_entities() -> EntityTable:
    """Return a table without entities."""
    return EntityTable(KeyIndex(), np.zeros((2, 0), dtype=np.int32), np.zeros((2, 0), dtype=np.float32))


# ---- matching keys --------------------------------------------------------------------------------------------------

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
