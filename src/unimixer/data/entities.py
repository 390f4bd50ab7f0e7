"""Users and items: keys to rows, and their encoded features, kept once instead of in every impression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from unimixer.data import values
from unimixer.data.arrays import Array, Ragged
from unimixer.data.schema import FIRST_ID, OOV_ID, PADDING_ID
from unimixer.data.tables import Chunk
from unimixer.errors import UnimixerError

MISSING_ROW, UNKNOWN_ROW, FIRST_ROW = PADDING_ID, OOV_ID, FIRST_ID
"""Rows of an entity table follow the rule of embedding tables: 0 has no key, 1 has a key that is not known."""


class KeyIndex:
    """Text keys to rows; grows while a log is read."""

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
        """The row of every key."""
        found = pl.DataFrame({"key": keys}).join(self._table, on="key", how="left", maintain_order="left")
        default = pl.when(pl.col("key").is_null()).then(MISSING_ROW).otherwise(UNKNOWN_ROW)
        return found.select(pl.col("row").fill_null(default).cast(pl.Int32)).to_series().to_numpy()


class EntityLog:
    """Keys of one kind while the log is read, and how often each occurs in the training part.

    Args:
        table: the raw entity table, if there is one; its keys come first and in its order.
        key: column of the key, in the table and in the log.
    """

    def __init__(self, table: Chunk | None, key: str | None) -> None:
        self.key, self.table, self.index = key, table, KeyIndex()
        if table is not None and key is not None:
            texts = values.text_column(table, key)
            _check_unique(table, key, texts)
            self.index.add(texts)
        self.train_counts = np.zeros(len(self.index), dtype=np.int64)

    def rows(self, chunk: Chunk) -> NDArray[np.int32] | None:
        """Rows of a chunk's entities; new keys are added."""
        return None if self.key is None else self.rows_of(values.text_column(chunk, self.key))

    def rows_of(self, texts: pl.Series) -> NDArray[np.int32]:
        """Rows of keys; new keys are added."""
        self.index.add(texts)
        self.train_counts.resize(len(self.index), refcheck=False)
        return self.index.lookup(texts)

    def chunk(self) -> Chunk:
        """The raw table in the order of the index; keys that only the log knows have no features."""
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
            f"{table.at(row)}: {key}={texts[row]!r} stands in row {table.first_row + first} already; "
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
        """Named columns for a file."""
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
        """The inverse of :meth:`columns`."""
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
