"""A ranking call to the tensors of a request: the stored rows, what the call brings, one transform."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.transform import Transform
from unimixer.errors import UnimixerError, nearest
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.serving.context import Context, ContextEncoder
from unimixer.serving.entities import EntityEncoder
from unimixer.serving.records import Columns, canonical
from unimixer.serving.rows import Encoded, RowCache
from unimixer.serving.store import EVERY, KINDS, FeatureStore, Kind, StoreUnavailableError, View

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


@dataclass(frozen=True)
class _User:
    revision: int
    rows: Encoded
    snapshots: dict[str, list[str]]


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
        self.transform, self.layout, self.store, self.cached = transform, layout, store, cached
        self.users, self.items = EntityEncoder(transform, "users"), EntityEncoder(transform, "items")
        self.context = ContextEncoder(transform)
        histories = {h.name: h for h in transform.schema.histories if h.name in layout.user_groups}
        self._columns_of = {
            name: [i for i, f in enumerate(transform.history_features()) if f.history == name] for name in histories
        }
        self._histories = {name: (h.event or EVERY, h.max_length) for name, h in histories.items()}
        self._windows: dict[str, int] = {}
        for event, length in self._histories.values():
            self._windows[event] = max(length, self._windows.get(event, 0))
        self._lock = threading.Lock()
        self._item_rows = RowCache(self.items.missing(), cached)
        self._missing_user = _User(0, self.users.missing(), {})
        self._user_rows: OrderedDict[str, _User] = OrderedDict()
        self._state: tuple[str, int] | None = None
        self._empty = False
        self._columns: dict[Kind, Columns] = {}
        self.check_store()

    def check_store(self) -> None:
        """Raise where the store has rows that lack a column of the schema: all of its values would be missing."""
        counts = self.store.counts()
        for encoder in (self.users, self.items):
            known = self.store.columns(encoder.kind)
            for name in sorted(encoder.columns - set(known)) if counts[encoder.kind] else ():
                raise UnimixerError(
                    f"{self.store.name}: {encoder.kind} have no column {name!r}{nearest(name, known)}; "
                    "build the store from the data of this model, or write the column before serving it"
                )

    def check_data(self, *, look: bool = False) -> None:
        """Raise a ``StoreUnavailableError`` where the store has no user and no item; they may come.

        ``look`` reads the store; otherwise it is as the last call found it.
        """
        if look:
            with self._lock:
                self._follow(self.store.view(None, {}, 0))
        if self._empty:
            raise StoreUnavailableError(
                f"{self.store.name}: holds no users and no items; fill it: unimixer store build"
            )

    @property
    def cache_sizes(self) -> dict[Kind, int]:
        """Encoded rows that are kept."""
        return {"users": len(self._user_rows), "items": len(self._item_rows)}

    def encode(self, call: RankCall) -> EncodedCall:
        """The tensors of a call.

        Raises:
            UnimixerError: an item stands twice, a column of the context is missing, or a value does not fit.
            StoreUnavailableError: while the store cannot be reached.
        """
        context = self.context.read(call.context, call.item_columns, len(call.items), call.now)
        user = self._user_key(call.user)
        view = self.store.view(user, self._windows, context.time)
        with self._lock:
            self._follow(view)
            self._item_rows.begin()
            items, kept = self._item_keys(call.items)
            found = self._user(user, view)
            past_items = [self._past(name, found, view) for name in self._histories]
            slots, *past = self._slots([items, *past_items], [kept, *map(self._item_rows.find, past_items)])
            rows = self._item_rows.take(slots)
            groups = {name: self._item_rows.history(at) for name, at in zip(self._histories, past, strict=True)}
        own = found.rows.take(np.zeros(1, dtype=np.int64))
        if call.user_columns:
            at = np.zeros(1, dtype=np.int64)
            self.users.bring(own, {name: (at, [value]) for name, value in call.user_columns.items()}, "user")
        if call.item_columns is not None:
            self.items.bring(rows, _by_column(call.item_columns, self.items.read), "items")
        return EncodedCall(
            request=Request(user=self._user_batch(own, groups), candidates=self._candidates(rows, context)),
            user=user,
            items=items,
            time=context.time,
            user_revision=found.revision,
            item_revisions=rows.revisions,
        )

    # ---- what is kept ---------------------------------------------------------------------------------------------

    def _follow(self, view: View) -> None:
        """Forget what changed in the store since the last call."""
        if self._state is not None and view.clock < self._state[1]:
            # another thread has seen a later change already; or the store went back, as one from a backup does
            view = self.store.view(None, {}, 0)
        state = (view.generation, view.clock)
        if state == self._state:
            return
        other = self._state is None or self._state[0] != view.generation or self._state[1] > view.clock
        if other or self._empty:  # rows do not go away within a generation
            counts = self.store.counts()
            self._empty = any((self.users.key, self.items.key)) and not any(counts[kind] for kind in KINDS)
        if self._state is None or other:
            self._item_rows.clear()
            self._user_rows.clear()
        else:
            self._item_rows.drop(self.store.changed("items", self._state[1]))
        self._columns = {kind: self.store.columns(kind) for kind in KINDS}
        self._state = state

    def _user_key(self, key: str | int | None) -> str | None:
        if isinstance(key, str) and key in self._user_rows:
            return key  # what is kept has its canonical form
        return None if key is None else canonical([key])[0]

    def _item_keys(self, keys: Sequence[str | int | None]) -> tuple[list[Any], list[int | None]]:
        """Canonical keys, and the slots of those that are kept; one that is kept is canonical."""
        slots = self._item_rows.find(keys)
        texts: list[Any] = list(keys)
        if None in slots:
            texts = [str(key) if isinstance(key, int) else key for key in keys]
            fresh = [key for key in texts if key is not None and key not in self._item_rows]
            known = dict(zip(fresh, canonical(fresh), strict=True)) if fresh else {}
            texts = [known.get(key, key) if key is not None else None for key in texts]
            slots = self._item_rows.find(texts)
        if len(set(texts)) < len(texts):
            _check_distinct(texts)
        return texts, slots

    def _user(self, key: str | None, view: View) -> _User:
        if key is None:
            return self._missing_user
        revision = 0 if view.user is None else view.user.revision
        kept = self._user_rows.get(key)
        if kept is None or kept.revision != revision:
            values = {} if view.user is None else view.user.values
            chunk = self.users.chunk([{**values, self.users.key or "": key}], self._columns["users"])
            kept = _User(revision, self.users.encode(chunk, [revision]), self.users.snapshot(chunk)[0])
            self._user_rows[key] = kept
            if len(self._user_rows) > self.cached:
                self._user_rows.popitem(last=False)
        self._user_rows.move_to_end(key)
        return kept

    def _past(self, history: str, user: _User, view: View) -> list[str]:
        """Keys of the items of a history: the events, and before them the snapshot."""
        event, length = self._histories[history]
        events = view.events[event][-length:]
        before = user.snapshots.get(history, [])
        return [*before[max(0, len(before) - (length - len(events))) :], *events]

    def _slots(
        self, lists: Sequence[Sequence[str | None]], found: Sequence[list[int | None]]
    ) -> list[NDArray[np.int64]]:
        """Where the rows of items are kept, list by list; those that are not ``found`` yet are encoded."""
        rows = self._item_rows
        if any(None in slots for slots in found):
            pairs = [pair for keys, slots in zip(lists, found, strict=True) for pair in zip(keys, slots, strict=True)]
            rows.use([slot for _, slot in pairs if slot is not None])  # so that none of them makes room
            self._fetch([key for key, slot in pairs if slot is None and key is not None])
            found = [rows.find(keys) for keys in lists]
        return [rows.use(slots) for slots in found]

    def _fetch(self, absent: Sequence[str]) -> None:
        """Encode items that are not kept."""
        if self.items.key is None:
            return
        absent = list(dict.fromkeys(absent))
        records = self.store.items(absent)
        values = [{**(records[key].values if key in records else {}), self.items.key: key} for key in absent]
        chunk = self.items.chunk(values, self._columns["items"])
        revisions = [records[key].revision if key in records else 0 for key in absent]
        self._item_rows.add(absent, self.items.encode(chunk, revisions))

    # ---- batches --------------------------------------------------------------------------------------------------

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
        ids=torch.from_numpy(ids),
        dense=torch.from_numpy(dense),
        values={name: torch.from_numpy(np.ascontiguousarray(groups[name][0])) for name in order},
        offsets={name: torch.from_numpy(groups[name][1]) for name in order},
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


def _check_distinct(keys: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        if key is not None and first.setdefault(key, number) != number:
            shown = key if len(key) <= 40 else key[:37] + "..."
            raise UnimixerError(
                f"items: {shown!r} stands at {first[key]} and at {number}, counted from 0; send every item once"
            )
