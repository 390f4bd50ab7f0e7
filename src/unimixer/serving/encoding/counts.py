"""Look up the counts of earlier impressions that a request does not bring, from the end of the log in the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from unimixer.data.encoding.later_counts import LaterCounts
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.values import key_column
from unimixer.errors import UnimixerError
from unimixer.serving.stores.records import canonical, series_of


@dataclass(frozen=True)
class Keys:
    """The keys of a call, and the columns of the user that it brings."""

    user: str | int | None = None
    items: Sequence[str | int | None] = ()
    user_columns: Mapping[str, Any] = field(default_factory=dict)


NO_KEYS = Keys()


class RequestCounts:
    """Counts of requests, equal to those of rows to predict without outcomes.

    Args:
        transform: of the bundle.
        later: its counts.
    """

    def __init__(self, transform: Transform, later: LaterCounts) -> None:
        self._later = later
        self._user, self._item = transform.schema.keys.user, transform.schema.keys.item
        self.names = frozenset(count.name for count in later.counts)
        """The columns that are looked up where a call does not send them."""
        keys = {name for name in (self._user, self._item) if name is not None}
        self.required = frozenset(later.needed(())) - keys
        """Columns of the impression that counts are looked up by."""
        self.asked = later.columns - keys
        """Columns that a call may send for the lookup."""

    @classmethod
    def of(cls, transform: Transform) -> RequestCounts | None:
        """Open the counts of a transform; None where it has none, or does not keep the end of the log."""
        if transform.read_log_end is None:
            return None
        # read here and not kept: the lookup holds all that requests need
        return cls(transform, LaterCounts(transform.schema.counts, transform.read_log_end()))

    def find(
        self,
        sent: Sequence[str],
        context: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]] | None,
        rows: int,
        keys: Keys,
    ) -> list[pl.Series]:
        """Return the counts of ``rows`` items that are not among ``sent``.

        Raises:
            UnimixerError: a column by which a count is looked up is missing.
        """
        own = [pl.Series(name, [], dtype=pl.Null).extend_constant(None, rows) for name in sent]
        texts = {
            self._user: canonical([keys.user]) * rows,
            self._item: canonical(list(keys.items)) if keys.items else [None] * rows,
        }
        own += [pl.Series(name, values, dtype=pl.String) for name, values in texts.items() if name is not None]
        frame, brought = pl.DataFrame(own), columns_of(items)
        for name in sorted(self.asked):
            column = self._column(name, context, items if name in brought else None, rows, keys, frame)
            if column is not None:
                frame = frame.with_columns(column)
        filled = self._later.fill(Chunk(frame, "items")).frame
        return [filled.get_column(name) for name in sorted(self.names) if name not in sent]

    def _column(
        self,
        name: str,
        context: Mapping[str, Any],
        items: Sequence[Mapping[str, Any]] | None,
        rows: int,
        keys: Keys,
        frame: pl.DataFrame,
    ) -> pl.Series | None:
        """Return a column by which counts are looked up; None where the user or the item has it.

        Without ``items`` no item brings the column.
        """
        if items is not None:
            if name in self.required:
                return series_of(name, merged(name, context, items), "items")
            sent = pl.DataFrame([series_of(name, [item.get(name) for item in items], "items")])
            has = pl.Series([name in item for item in items])
            known = self._later.text(name, Chunk(frame, "items"))
            return key_column(Chunk(sent, "items"), name).zip_with(has, known).alias(name)
        for columns, where in ((context, "context"), (keys.user_columns, "user")):
            if name in columns:
                return series_of(name, [columns[name]], where).new_from_index(0, rows)
        if name in self.required:
            raise missing_column(name)
        return None


def columns_of(items: Sequence[Mapping[str, Any]] | None) -> frozenset[str]:
    """Return the columns that any item brings."""
    return frozenset[str]().union(*(items or ()))


def missing_column(name: str) -> UnimixerError:
    """Make the error for a column of the impression that neither the context nor the items have."""
    return UnimixerError(
        f"context: column {name!r} is missing; send it, with null if the value is unknown, or send it with every item"
    )


def merged(name: str, context: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return each item's own value of a column, or the value of the context for items without one."""
    values = []
    for number, item in enumerate(items):
        if name not in item and name not in context:
            raise UnimixerError(f"items, row {number + 1}: column {name!r} is missing; send it with every item")
        values.append(item[name] if name in item else context[name])
    return values
