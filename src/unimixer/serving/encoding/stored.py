"""Rows of the feature store as a bundle encodes them: kept in bounded memory, and encoded anew where they change."""

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
from unimixer.serving.encoding.lru import Kept
from unimixer.serving.encoding.row_cache import Encoded, RowCache
from unimixer.serving.stores.base import KINDS, FeatureStore, Kind, StoreUnavailableError, View, longest_histories
from unimixer.serving.stores.records import Columns, Record, Row, canonical

Result = TypeVar("Result")
Key = str | int | None
TRIES = 5
"""Times that a request is begun anew where the store changes while its rows are read."""
MOST_UNKNOWN = 10_000
"""Items that the store does not know and that are kept all the same: callers can name any number of them."""
USER_BYTES = 2_048
"""Bytes of a kept user on the average, at most."""


@dataclass(frozen=True)
class User:
    """An encoded user: his row, and the items of his snapshot columns by history."""

    revision: int
    rows: Encoded
    snapshots: dict[str, list[str]]


@dataclass(frozen=True)
class Stored:
    """What the store has for a request, all of one state."""

    user: User
    items: list[str | None]
    """Canonical keys."""
    rows: Encoded
    """Of the items."""
    past: dict[str, NDArray[np.int32]]
    """What every history shows of its items."""


class _MovedError(Exception):
    """The store changed after the request began to read it."""


class StoredRows:
    """Encoded rows of users and items by key.

    Args:
        users: encoder of users.
        items: encoder of items.
        store: raw rows and events.
        histories: kind of event and longest history, by name of the history.
        cached: rows of items, and of users, kept at most.
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
        self._user_rows: Kept[User] = Kept(cached, cached * USER_BYTES)
        self._state: tuple[str, int] | None = None
        self._columns: dict[Kind, Columns] = {}

    @property
    def empty(self) -> bool:
        """Whether every user and every item would be unknown: the store has no row, and so no column."""
        return any((self.users.key, self.items.key)) and not any(self._columns.values())

    @property
    def sizes(self) -> dict[Kind, int]:
        """Rows that are kept."""
        return {"users": len(self._user_rows), "items": len(self._item_rows)}

    @property
    def taken(self) -> dict[Kind, int]:
        """Bytes that users take, and keys of items; rows of items have one size each."""
        return {"users": self._user_rows.taken, "items": self._item_rows.key_bytes}

    def follow(self) -> None:
        """Take over what the store is now; a request does it by itself.

        Raises:
            StoreUnavailableError: the store cannot be read, or is another one now and does not fit the bundle.
        """

        def look(strict: bool) -> None:
            view = self.store.view(None, {}, 0)
            with self._lock:
                self._follow(view, strict)

        self._at_one_moment(look)

    def user_key(self, key: Key) -> str | None:
        """A key in its canonical form."""
        if isinstance(key, str) and key in self._user_rows:
            return key  # what is kept has its canonical form
        return None if key is None else canonical([key])[0]

    def of(self, user: str | None, items: Sequence[Key], time: int) -> Stored:
        """The rows of a request of a time.

        Raises:
            UnimixerError: an item stands twice.
            StoreUnavailableError: see :meth:`follow`.
        """

        def read(strict: bool) -> Stored:
            view = self.store.view(user, self._windows, time)
            with self._lock:
                self._follow(view, strict)
                return self._read(user, items, view, strict)

        return self._at_one_moment(read)

    def _at_one_moment(self, read: Callable[[bool], Result]) -> Result:
        """Read until nothing changed meanwhile; in the end it is enough that it is the same store."""
        for attempt in range(1, TRIES + 1):
            with suppress(_MovedError):
                return read(attempt < TRIES)
        raise StoreUnavailableError(f"{self.store.name}: the feature store was replaced while it was read; try again")

    def _read(self, user: str | None, items: Sequence[Key], view: View, strict: bool) -> Stored:
        self._item_rows.begin()
        while len(self._unknown) > MOST_UNKNOWN:
            self._item_rows.drop([self._unknown.popleft()])
        keys, kept = self._item_keys(items)
        found = self._user(user, view)
        past_keys = [self._past(name, found, view) for name in self._histories]
        lists, slots = [keys, *past_keys], [kept, *map(self._item_rows.find, past_keys)]
        at, *past = self._slots(lists, slots, strict)
        shown = {name: self._item_rows.history(rows) for name, rows in zip(self._histories, past, strict=True)}
        return Stored(found, keys, self._item_rows.take(at), shown)

    # ---- the state of the store -----------------------------------------------------------------------------------

    def _follow(self, view: View, strict: bool) -> None:
        """Forget what changed since the last call; a store that was not seen before must fit the bundle."""
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
        else:  # another store, or one that went back, as one from a backup does
            self._item_rows.clear()
            self._unknown.clear()
            self._user_rows.clear()
        self._state, self._columns = state, columns

    @staticmethod
    def _same(state: tuple[str, int] | None, now: tuple[str, int], strict: bool) -> None:
        if state is None or state[0] != now[0] or (strict and state != now):
            raise _MovedError

    def _check(self, columns: Mapping[Kind, Columns]) -> None:
        """Raise where the store has rows that lack a column of the schema: all of its values would be missing."""
        for encoder in (self.users, self.items):
            known = columns[encoder.kind]
            for name in sorted(encoder.columns - set(known)) if known else ():
                raise StoreUnavailableError(
                    f"{self.store.name}: {encoder.kind} have no column {name!r}{nearest(name, known)}; "
                    "build the store from the data of this model, or write the column before serving it"
                )

    # ---- rows -----------------------------------------------------------------------------------------------------

    def _item_keys(self, keys: Sequence[Key]) -> tuple[list[Any], list[int | None]]:
        """Canonical keys, and the slots of those that are kept; one that is kept is canonical."""
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

    def _user(self, key: str | None, view: View) -> User:
        if key is None:
            return self._missing_user
        revision = 0 if view.user is None else view.user.revision
        kept = self._user_rows.get(key)
        if kept is None or kept.revision != revision:
            values = {} if view.user is None else self._values(view.user, f"user {key!r:.60}")
            chunk = self.users.chunk([{**values, self.users.key or "": key}], self._columns["users"])
            kept = User(revision, self.users.encode(chunk, [revision]), self.users.snapshot(chunk)[0])
            self._user_rows.put(key, kept)
        return kept

    def _past(self, history: str, user: User, view: View) -> list[str]:
        """Keys of the items of a history: the events, and before them the snapshot."""
        event, length = self._histories[history]
        events = view.events[event][-length:]
        before = user.snapshots.get(history, [])
        return [*before[max(0, len(before) - (length - len(events))) :], *events]

    def _slots(
        self, lists: Sequence[Sequence[str | None]], found: Sequence[list[int | None]], strict: bool
    ) -> list[NDArray[np.int64]]:
        """Where the rows of items are kept, list by list; those that are not ``found`` yet are encoded."""
        rows = self._item_rows
        if any(None in slots for slots in found):
            pairs = [pair for keys, slots in zip(lists, found, strict=True) for pair in zip(keys, slots, strict=True)]
            rows.use([slot for _, slot in pairs if slot is not None])  # so that none of them makes room
            self._fetch([key for key, slot in pairs if slot is None and key is not None], strict)
            found = [rows.find(keys) for keys in lists]
        return [rows.use(slots) for slots in found]

    def _fetch(self, absent: Sequence[str], strict: bool) -> None:
        """Encode items that are not kept."""
        if self.items.key is None:
            return
        absent = list(dict.fromkeys(absent))
        found = self.store.read("items", absent)
        self._same(self._state, (found.generation, found.clock), strict)
        stored = {key: self._values(record, f"item {key!r:.60}") for key, record in found.records.items()}
        values = [{**stored.get(key, {}), self.items.key: key} for key in absent]
        chunk = self.items.chunk(values, self._columns["items"])
        revisions = [found.records[key].revision if key in stored else 0 for key in absent]
        self._item_rows.add(absent, self.items.encode(chunk, revisions))
        self._unknown.extend(key for key in absent if key not in stored)

    def _values(self, record: Record, what: str) -> Row:
        try:
            return record.values
        except ValueError:
            raise StoreUnavailableError(
                f"{self.store.name}: the row of {what} is damaged; write it again, or build the store again"
            ) from None


def _check_distinct(keys: Sequence[str | None]) -> None:
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        if key is not None and first.setdefault(key, number) != number:
            shown = key if len(key) <= 40 else key[:37] + "..."
            raise UnimixerError(
                f"items: {shown!r} stands at {first[key]} and at {number}, counted from 0; send every item once"
            )
