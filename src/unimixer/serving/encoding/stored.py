"""Encode rows of the feature store, cache them in bounded memory, and encode them again after they change."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError, nearest
from unimixer.serving.encoding.entity import EntityEncoder
from unimixer.serving.encoding.lru import LRUCache
from unimixer.serving.encoding.row_cache import Encoded, RowCache
from unimixer.serving.stores.base import KINDS, FeatureStore, Kind, StoreUnavailableError, UserView, longest_histories
from unimixer.serving.stores.records import Columns, Record, Row, canonical

Result = TypeVar("Result")
Key = str | int | None
TRIES = 5
"""Attempts to read the rows of a request while the store does not change."""
MOST_UNKNOWN = 10_000
"""Largest number of cached items that the store does not have: callers can name any number of them."""
USER_BYTES = 2_048
"""Largest average number of bytes of a cached user."""


@dataclass(frozen=True)
class User:
    """Hold an encoded user: the row, and the item keys of the snapshot columns by history."""

    revision: int
    rows: Encoded
    snapshots: dict[str, list[str]]


@dataclass(frozen=True)
class Stored:
    """Hold all stored data of a request, read from one state of the store."""

    user: User
    items: list[str | None]
    """Canonical keys of the items."""
    rows: Encoded
    """Rows of the items."""
    past: dict[str, NDArray[np.int32]]
    """Item columns of every history, one row per event."""


class _ChangedError(Exception):
    """The store changed while a request read it."""


class StoredRows:
    """Return the encoded rows of users and items by key.

    Args:
        users: encoder of users.
        items: encoder of items.
        store: feature store with raw rows and events.
        histories: kind of event and largest number of events, by name of the history.
        cached: largest number of cached items, and of cached users.
    """

    def __init__(
        self,
        users: EntityEncoder,
        items: EntityEncoder,
        store: FeatureStore,
        histories: Mapping[str, tuple[str, int]],
        cached: int,
    ) -> None:
        self.users, self.items, self.store, self._histories = users, items, store, histories
        self._windows: dict[str, int] = {}
        for event, length in histories.values():
            self._windows[event] = max(length, self._windows.get(event, 0))
        self._lock = threading.Lock()
        self._item_rows = RowCache(items.missing(), cached)
        self._unknown: deque[str] = deque()
        self._missing_user = User(0, users.missing(), {})
        self._user_rows: LRUCache[User] = LRUCache(cached, cached * USER_BYTES)
        self._state: tuple[str, int] | None = None
        self._columns: dict[Kind, Columns] = {}

    @property
    def empty(self) -> bool:
        """Whether the store has no columns, and so no rows: every user and every item would be unknown."""
        return any((self.users.key, self.items.key)) and not any(self._columns.values())

    @property
    def sizes(self) -> dict[Kind, int]:
        """The numbers of cached users and items."""
        return {"users": len(self._user_rows), "items": len(self._item_rows)}

    @property
    def num_bytes(self) -> dict[Kind, int]:
        """The bytes of cached users, and of the keys of cached items; the rows of items have a fixed size."""
        return {"users": self._user_rows.num_bytes, "items": self._item_rows.key_bytes}

    def follow(self) -> None:
        """Adopt the current state of the store. Every request does this, too.

        Raises:
            StoreUnavailableError: the store cannot be read, or a new store lacks a column of the bundle.
        """

        def adopt(strict: bool) -> None:
            view = self.store.view(None, {}, 0)
            with self._lock:
                self._follow(view, strict)

        self._consistently(adopt)

    def user_key(self, key: Key) -> str | None:
        """Convert the key of a user to its canonical form."""
        if isinstance(key, str) and key in self._user_rows:
            return key  # cached keys are canonical
        return None if key is None else canonical([key])[0]

    def of(self, user: str | None, items: Sequence[Key], time: int) -> Stored:
        """Read the rows of a request, and the events before ``time``.

        Raises:
            UnimixerError: an item occurs twice.
            StoreUnavailableError: see :meth:`follow`.
        """

        def read(strict: bool) -> Stored:
            view = self.store.view(user, self._windows, time)
            with self._lock:
                self._follow(view, strict)
                return self._read(user, items, view, strict)

        return self._consistently(read)

    def _consistently(self, read: Callable[[bool], Result]) -> Result:
        """Retry a read until the store does not change during it; the last try accepts changes of the same store."""
        for attempt in range(1, TRIES + 1):
            with suppress(_ChangedError):
                return read(attempt < TRIES)
        raise StoreUnavailableError(f"{self.store.name}: the feature store was replaced during the read; try again")

    def _read(self, user: str | None, items: Sequence[Key], view: UserView, strict: bool) -> Stored:
        self._item_rows.begin()
        while len(self._unknown) > MOST_UNKNOWN:
            self._item_rows.drop([self._unknown.popleft()])
        keys, item_slots = self._item_keys(items)
        encoded_user = self._user(user, view)
        past_keys = [self._past(name, encoded_user, view) for name in self._histories]
        lists, slots = [keys, *past_keys], [item_slots, *map(self._item_rows.find, past_keys)]
        candidates, *past = self._slots(lists, slots, strict)
        columns = {name: self._item_rows.history(rows) for name, rows in zip(self._histories, past, strict=True)}
        return Stored(encoded_user, keys, self._item_rows.take(candidates), columns)

    # ---- the state of the store -----------------------------------------------------------------------------------

    def _follow(self, view: UserView, strict: bool) -> None:
        """Remove the rows that changed since the last call; check the columns of a store that is new."""
        state = (view.generation, view.clock)
        if state == self._state:
            return
        columns = {kind: self.store.columns(kind) for kind in KINDS}
        known = self._state is not None and self._state[0] == view.generation and self._state[1] <= view.clock
        changed = self.store.changed("items", self._state[1]) if known and self._state is not None else []
        if not known:
            self._check(columns)
            self.store.expect(longest_histories(self.users.transform.schema))
        now = self.store.view(None, {}, 0)
        self._same(state, (now.generation, now.clock), strict)
        if known:
            self._item_rows.drop(changed)
        else:  # another store, or an older state of this one, such as a restored backup
            self._item_rows.clear()
            self._unknown.clear()
            self._user_rows.clear()
        self._state, self._columns = state, columns

    @staticmethod
    def _same(state: tuple[str, int] | None, now: tuple[str, int], strict: bool) -> None:
        if state is None or state[0] != now[0] or (strict and state != now):
            raise _ChangedError

    def _check(self, columns: Mapping[Kind, Columns]) -> None:
        """Raise if stored rows lack a column of the schema: all of its values would be missing."""
        for encoder in (self.users, self.items):
            known = columns[encoder.kind]
            for name in sorted(encoder.columns - set(known)) if known else ():
                raise StoreUnavailableError(
                    f"{self.store.name}: {encoder.kind} have no column {name!r}{nearest(name, known)}; "
                    "build the store from the data of this model, or write the column before serving it"
                )

    # ---- rows -----------------------------------------------------------------------------------------------------

    def _item_keys(self, keys: Sequence[Key]) -> tuple[list[Any], list[int | None]]:
        """Return the canonical keys of items, and the slots of the cached ones."""
        slots = self._item_rows.find(keys)
        texts: list[Any] = list(keys)
        if None in slots:
            texts = [str(key) if isinstance(key, int) else key for key in keys]
            fresh = [key for key in texts if key is not None and key not in self._item_rows]
            known = dict(zip(fresh, canonical(fresh), strict=True)) if fresh else {}
            texts = [known.get(key, key) if key is not None else None for key in texts]
            slots = self._item_rows.find(texts)
        if len(set(slots)) < len(slots):  # of one item, of several without a key, or of several that are not kept
            _check_distinct(texts)
        return texts, slots

    def _user(self, key: str | None, view: UserView) -> User:
        if key is None:
            return self._missing_user
        revision = 0 if view.user is None else view.user.revision
        user = self._user_rows.get(key)
        if user is None or user.revision != revision:
            values = {} if view.user is None else self._values(view.user, f"user {key!r:.60}")
            chunk = self.users.chunk([{**values, self.users.key or "": key}], self._columns["users"])
            user = User(revision, self.users.encode(chunk, [revision]), self.users.snapshot(chunk)[0])
            self._user_rows.put(key, user)
        return user

    def _past(self, history: str, user: User, view: UserView) -> list[str]:
        """Return the item keys of a history: the end of the snapshot if there is room, then the latest events."""
        event, length = self._histories[history]
        events = view.events[event][-length:]
        before = user.snapshots.get(history, [])
        return [*before[max(0, len(before) - (length - len(events))) :], *events]

    def _slots(
        self, lists: Sequence[Sequence[str | None]], cached: Sequence[list[int | None]], strict: bool
    ) -> list[NDArray[np.int64]]:
        """Return the slots of items, list by list; encode the items whose slot in ``cached`` is None."""
        rows = self._item_rows
        if any(None in slots for slots in cached):
            pairs = [pair for keys, slots in zip(lists, cached, strict=True) for pair in zip(keys, slots, strict=True)]
            rows.use([slot for _, slot in pairs if slot is not None])  # protects them from eviction
            self._fetch([key for key, slot in pairs if slot is None and key is not None], strict)
            cached = [rows.find(keys) for keys in lists]
        return [rows.use(slots) for slots in cached]

    def _fetch(self, absent: Sequence[str], strict: bool) -> None:
        """Encode and cache items that are not cached yet."""
        if self.items.key is None:
            return
        absent = list(dict.fromkeys(absent))
        rows = self.store.read("items", absent)
        self._same(self._state, (rows.generation, rows.clock), strict)
        stored = {key: self._values(record, f"item {key!r:.60}") for key, record in rows.records.items()}
        values = [{**stored.get(key, {}), self.items.key: key} for key in absent]
        chunk = self.items.chunk(values, self._columns["items"])
        revisions = [rows.records[key].revision if key in stored else 0 for key in absent]
        self._item_rows.add(absent, self.items.encode(chunk, revisions))
        self._unknown.extend(key for key in absent if key not in stored)

    def _values(self, record: Record, entity: str) -> Row:
        try:
            return record.values
        except ValueError:
            raise StoreUnavailableError(
                f"{self.store.name}: the row of {entity} is damaged; write it again, or build the store again"
            ) from None


def _check_distinct(keys: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        if key is not None and first.setdefault(key, number) != number:
            short = key if len(key) <= 40 else key[:37] + "..."
            raise UnimixerError(
                f"items: {short!r} occurs at positions {first[key]} and {number}, counted from 0; send every item once"
            )
