"""A ranking call to the tensors of a request: the stored rows, what the call brings, one transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.encoding.transform import Transform
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.serving.encoding.context import Context, ContextEncoder
from unimixer.serving.encoding.counts import Keys
from unimixer.serving.encoding.entity import EntityEncoder
from unimixer.serving.encoding.row_cache import Encoded
from unimixer.serving.encoding.stored import StoredRows
from unimixer.serving.stores.base import ANY_EVENT, FeatureStore, Kind, StoreUnavailableError

CACHED_ROWS = 200_000


@dataclass(frozen=True)
class RankCall:
    """What a caller asks: which user, in which context, which items.

    Args:
        user: key of the user, None where there is none.
        user_columns: raw columns of the user that win over stored ones.
        context: raw columns of the impression, the same for all items; its time too.
        items: keys of the candidates, None where one has none.
        item_columns: raw columns of every candidate that win over stored ones and over the context, or None.
        now: time of the call in ms, taken where the context brings none.
    """

    user: str | int | None
    items: Sequence[str | int | None]
    context: dict[str, Any] = field(default_factory=dict)
    user_columns: dict[str, Any] = field(default_factory=dict)
    item_columns: Sequence[dict[str, Any]] | None = None
    now: int = 0


@dataclass(frozen=True)
class EncodedCall:
    """The tensors of a call, and what they were made from."""

    request: Request
    user: str | None
    items: list[str | None]
    time: int
    user_revision: int
    item_revisions: NDArray[np.int64]
    """0 where the store does not know the entity."""

    @property
    def unknown_items(self) -> int:
        """Candidates that the store does not know."""
        return int((self.item_revisions == 0).sum())


class RequestEncoder:
    """Calls to requests for one bundle, with the encoded rows of users and items kept in bounded memory.

    Equal to ``Transform.raw_batch`` of the same raw rows, for users and items that the store holds, and for unknown
    ones: a key that the store does not have is looked up in the vocabulary, everything else of it is missing.

    Args:
        transform: of the bundle.
        layout: of the bundle.
        store: raw rows and events.
        cached: encoded rows of items, and of users, kept at most.
    """

    def __init__(
        self, transform: Transform, layout: RequestLayout, store: FeatureStore, *, cached: int = CACHED_ROWS
    ) -> None:
        self.transform, self.layout, self.store = transform, layout, store
        self.users, self.items = EntityEncoder(transform, "users"), EntityEncoder(transform, "items")
        self.context = ContextEncoder(transform)
        histories = {h.name: h for h in transform.schema.histories if h.name in layout.user_groups}
        self._columns_of = {
            name: [i for i, f in enumerate(transform.history_features()) if f.history == name] for name in histories
        }
        events = {name: (h.event or ANY_EVENT, h.max_length) for name, h in histories.items()}
        self.stored = StoredRows(self.users, self.items, store, events, cached)
        self.stored.follow()

    def check_data(self, *, look: bool = False) -> None:
        """Raise a ``StoreUnavailableError`` where the store has no user and no item; they may come.

        ``look`` reads the store; otherwise it is as the last call found it.
        """
        if look:
            self.stored.follow()
        if self.stored.empty:
            raise StoreUnavailableError(
                f"{self.store.name}: holds no users and no items; fill it: unimixer store build"
            )

    @property
    def cache_sizes(self) -> dict[Kind, int]:
        """Encoded rows that are kept."""
        return self.stored.sizes

    def encode(self, call: RankCall) -> EncodedCall:
        """The tensors of a call.

        Raises:
            UnimixerError: an item stands twice, a column of the context is missing, or a value does not fit.
            StoreUnavailableError: while the store cannot be reached.
        """
        keys = Keys(call.user, call.items, call.user_columns)
        context = self.context.read(call.context, call.item_columns, len(call.items), call.now, keys)
        user = self.stored.user_key(call.user)
        found = self.stored.of(user, call.items, context.time)
        own, rows = found.user.rows.take(np.zeros(1, dtype=np.int64)), found.rows
        if call.user_columns:
            at = np.zeros(1, dtype=np.int64)
            self.users.override(own, {name: (at, [value]) for name, value in call.user_columns.items()}, "user")
        if call.item_columns is not None:
            self.items.override(rows, _by_column(call.item_columns, self.items.read), "items")
        return EncodedCall(
            request=Request(user=self._user_batch(own, found.past), candidates=self._candidates(rows, context)),
            user=user,
            items=found.items,
            time=context.time,
            user_revision=found.user.revision,
            item_revisions=rows.revisions,
        )

    def _user_batch(self, rows: Encoded, past: dict[str, NDArray[np.int32]]) -> Batch:
        groups = {name: (shown[:, self._columns_of[name]], _ends(len(shown))) for name, shown in past.items()}
        for name, lists in rows.lists.items():
            ragged = lists.ragged()
            groups[name] = ragged.values[:, None], ragged.offsets
        return _batch(rows.ids, rows.dense, groups, self.layout.user_groups)

    def _candidates(self, rows: Encoded, context: Context) -> Batch:
        n = len(rows)
        groups = {}
        for name, lists in (*rows.lists.items(), *context.lists.items()):
            ragged = lists.ragged()
            groups[name] = ragged.values[:, None], ragged.offsets
        ids = np.concatenate([rows.ids, np.broadcast_to(context.ids, (n, context.ids.shape[1]))], axis=1)
        dense = np.concatenate([rows.dense, np.broadcast_to(context.dense, (n, context.dense.shape[1]))], axis=1)
        return _batch(ids, dense, groups, [name for name in self.transform.spec_groups if name in groups])


def _batch(
    ids: NDArray[np.int32],
    dense: NDArray[np.float32],
    groups: dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]],
    order: Sequence[str],
) -> Batch:
    return Batch(
        sparse_ids=torch.from_numpy(ids),
        dense_features=torch.from_numpy(dense),
        sequence_values={name: torch.from_numpy(np.ascontiguousarray(groups[name][0])) for name in order},
        sequence_offsets={name: torch.from_numpy(groups[name][1]) for name in order},
    )


def _ends(length: int) -> NDArray[np.int64]:
    return np.asarray([0, length], dtype=np.int64)


def _by_column(
    rows: Sequence[dict[str, Any]], columns: frozenset[str]
) -> dict[str, tuple[NDArray[np.int64], list[Any]]]:
    """Columns that some rows have: which rows, and their values."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name in columns:
                at, values = found.setdefault(name, ([], []))
                at.append(number)
                values.append(value)
    return {name: (np.asarray(at, dtype=np.int64), values) for name, (at, values) in found.items()}
