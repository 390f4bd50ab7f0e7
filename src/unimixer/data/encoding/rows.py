"""Encoded impressions as plain arrays, as dataset parts hold them and the loader shuffles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Array, Ragged, concatenate


@dataclass(frozen=True)
class Rows:
    """n encoded impressions.

    Shape:
        - users, items: ``(n,)`` int32, rows of the entity tables
        - times: ``(n,)`` int64, ms
        - ids: ``(n, F_i)`` int32; dense: ``(n, W_i)`` float32: the fields that stand in the impression itself
        - windows[history]: ``(n, 2)`` int64, start and length in the history's events
        - lists[feature]: n lists of int32
        - labels: ``(n, tasks)`` uint8, or float32 where a label is soft
        - truth: ``(n, tasks)`` float32; weights: ``(n,)`` float32
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    windows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    lists: dict[str, Ragged] = field(default_factory=dict)
    labels: NDArray[np.uint8 | np.float32] | None = None
    truth: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def columns(self) -> dict[str, Array | Ragged]:
        """Return named columns, without those of no width."""
        flat: dict[str, Array | Ragged | None] = {
            "users": self.users,
            "items": self.items,
            "times": self.times,
            "ids": self.ids if self.ids.shape[1] else None,
            "dense": self.dense if self.dense.shape[1] else None,
            "labels": self.labels,
            "truth": self.truth,
            "weights": self.weights,
        }
        flat |= {f"window.{name}": window for name, window in self.windows.items()}
        flat |= {f"list.{name}": ragged for name, ragged in self.lists.items()}
        return {name: column for name, column in flat.items() if column is not None}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Rows:
        """Build rows from the columns of :meth:`columns`."""
        n = len(columns["users"])
        return cls(
            users=columns["users"],
            items=columns["items"],
            times=columns["times"],
            ids=columns.get("ids", np.empty((n, 0), dtype=np.int32)),
            dense=columns.get("dense", np.empty((n, 0), dtype=np.float32)),
            windows={k.removeprefix("window."): v for k, v in columns.items() if k.startswith("window.")},
            lists={k.removeprefix("list."): v for k, v in columns.items() if k.startswith("list.")},
            labels=columns.get("labels"),
            truth=columns.get("truth"),
            weights=columns.get("weights"),
        )

    def take(self, rows: Array) -> Rows:
        """Copy some rows in the given order."""
        return self._map(lambda column: column.take(rows) if isinstance(column, Ragged) else column[rows])

    def _map(self, function: Callable[[Any], Any]) -> Rows:
        return Rows.from_columns({name: function(column) for name, column in self.columns().items()})

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Concatenate the rows of several parts."""
        columns = [part.columns() for part in parts]
        return Rows.from_columns({name: _join([c[name] for c in columns]) for name in columns[0]})


def _join(columns: list[Any]) -> Any:
    return concatenate(columns) if isinstance(columns[0], Ragged) else np.concatenate(columns)
