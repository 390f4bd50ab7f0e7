"""Define the interface of feature stores: raw rows of users and items, and events of users."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from unimixer.data.encoding.history import BEFORE_THE_LOG
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.serving.stores.records import MAX_KEY, Columns, Record, Row, canonical, check_length, fit_columns

Kind = Literal["users", "items"]
KINDS: tuple[Kind, ...] = ("users", "items")
REDIS = ("redis", "rediss", "unix")
"""Schemes of Redis addresses."""
ANY_EVENT = ""
"""Kind of the events of a history that every impression enters."""
FORMAT = 1
TIMEOUT_S = 1.0
"""Default number of seconds that a call waits for the store."""
MARGIN = 1_000
"""Events per user and kind that a store keeps in addition to the longest history."""
IDS_KEPT_S = 86_400
"""Seconds during which a repeated event is recognized by its id."""


class StoreUnavailableError(UnimixerError):
    """Signal that the store cannot be read or written now; a later try may succeed."""


def wrong_format(name: str, version: str | None) -> StoreUnavailableError:
    """Return the error for a store that another version of the program wrote."""
    return StoreUnavailableError(f"{name}: format {version}, this version reads {FORMAT}; build the store again")


@dataclass(frozen=True)
class Event:
    """Record that a user met an item.

    ``event`` is the log column that was 1, or :data:`ANY_EVENT`. ``id`` is the sender's id of the impression: an
    event whose id was added within the last :data:`IDS_KEPT_S` seconds is ignored.
    """

    user: str
    item: str
    time: int
    event: str
    id: str | None = None


@dataclass(frozen=True)
class UserView:
    """Hold the row and the recent events of a user, read from one state of the store.

    ``events`` holds, for every requested kind of event, the keys of the last items before the request, oldest first.
    A store that is filled again gets a new ``generation``, which invalidates everything derived from its old rows.
    """

    generation: str
    clock: int
    user: Record | None = None
    events: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Hold the existing rows by key, and the state of the store that they were read from."""

    generation: str
    clock: int
    records: dict[str, Record]


class FeatureStore(ABC):
    """Store raw rows by key, and events by user and time.

    Every write of rows advances the store's clock, and its new value becomes the revision of the written rows; a cache
    of derived rows asks for the keys that changed since a revision. Keys are canonical texts. Any thread may call.

    An append keeps a user's last ``longest + margin`` events of one kind: ``longest`` is the longest history that was
    passed to :meth:`expect`, and ``margin`` preserves the past of requests that arrive late or are computed again.

    Raises:
        StoreUnavailableError: by every method, while the store cannot be reached.
    """

    name: str
    """Name of the store in messages, without a password."""
    margin: int = MARGIN

    @abstractmethod
    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> UserView:
        """Read a user's row and the last ``windows[event]`` events strictly earlier than ``before`` (ms)."""

    @abstractmethod
    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        """Read the existing rows from one state of the store."""

    @abstractmethod
    def changed(self, kind: Kind, since: int) -> list[str]:
        """Return the keys of rows whose revision is greater than ``since``."""

    @abstractmethod
    def columns(self, kind: Kind) -> Columns:
        """Return the columns of the stored rows and their types."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return the numbers of users, items and events."""

    @abstractmethod
    def has_data(self) -> bool:
        """Return whether there is any user, item or event, in constant time."""

    @abstractmethod
    def write(self, kind: Kind, rows: Mapping[str, Row], columns: Columns) -> int:
        """Write typed rows, keep stored columns that the rows lack, and return the revision."""

    @abstractmethod
    def append(self, events: Sequence[Event]) -> int:
        """Add events and return their number; events of one user with equal times keep their order.

        The oldest events beyond the bound are removed. Events with the id of an earlier call are ignored.
        """

    @abstractmethod
    def expect(self, longest: Mapping[str, int]) -> None:
        """Record the longest history by kind of event; the largest value of all bundles counts.

        All events of a kind without a recorded length are kept, so a store that is being filled has the whole past.
        """

    @abstractmethod
    def filling(self, *, overwrite: bool) -> AbstractContextManager[None]:
        """Replace the contents of the store by the writes inside the ``with`` block.

        Raises:
            UnimixerError: the store has contents, and ``overwrite`` is false or the store cannot be replaced.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""

    def records(self, kind: Kind, keys: Sequence[str]) -> dict[str, Record]:
        """Read the existing rows."""
        return self.read(kind, keys).records

    def users(self, key: str) -> Record | None:
        """Read one user."""
        return self.records("users", [key]).get(key)

    def items(self, keys: Sequence[str]) -> dict[str, Record]:
        """Read the existing items."""
        return self.records("items", keys)

    def put(self, kind: Kind, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change rows: an absent column keeps its value, a null removes it.

        Args:
            kind: ``users`` or ``items``.
            key: name of the key column.
            rows: plain JSON values by column.

        Returns:
            The revision of the rows.

        Raises:
            UnimixerError: a row has no key, a key occurs twice, or a value does not have the type of its column.
        """
        others = [{name: value for name, value in row.items() if name != key} for row in rows]
        columns, typed = fit_columns(self.columns(kind), others, where=kind)
        keyed: dict[str, Row] = {}
        for number, (text, row) in enumerate(zip(canonical([r.get(key) for r in rows]), typed, strict=True), 1):
            if text is None:
                raise UnimixerError(f"{kind}, row {number}: {key} is missing; every row needs its key")
            check_length(text, f"{kind}, row {number}: {key}")
            if text in keyed:
                raise UnimixerError(f"{kind}, row {number}: {key}={text!r} occurs twice; send every row once")
            keyed[text] = {key: text, **row}
        return self.write(kind, keyed, {**columns, key: "text"})

    def put_users(self, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change users."""
        return self.put("users", key, rows)

    def put_items(self, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change items."""
        return self.put("items", key, rows)

    def append_events(self, events: Sequence[Event]) -> int:
        """Add events with a time and return the number of new ones.

        Raises:
            UnimixerError: a key is too long, or an event lacks a time: items from before the log belong into the
                snapshot column of the user.
        """
        for number, event in enumerate(events, 1):
            if len(event.user) > MAX_KEY or len(event.item) > MAX_KEY:
                check_length(max(event.user, event.item, key=len), f"events, row {number}")
        if any(event.time <= BEFORE_THE_LOG for event in events):
            raise UnimixerError("an event needs a time; put items from before the log into the user's snapshot column")
        return self.append(events)


def longest_histories(schema: Schema) -> dict[str, int]:
    """Return the longest history of a schema by kind of event."""
    longest: dict[str, int] = {}
    for history in schema.histories:
        event = history.event or ANY_EVENT
        longest[event] = max(history.max_length, longest.get(event, 0))
    return longest


def is_redis(address: str) -> bool:
    """Return whether an address names a Redis database and not a file.

    Raises:
        UnimixerError: the scheme is not one of Redis; the message repeats nothing else of the address.
    """
    scheme, separator, _ = address.partition("://")
    if separator and scheme not in REDIS:
        raise UnimixerError(f"{scheme}://...: not an address of a feature store; use a file, or redis://host:port/db")
    return bool(separator)


def redacted(address: str) -> str:
    """Remove the user name, the password and the query from an address, for messages."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    base, _, query = rest.partition("?")
    if "@" in query and "@" not in base:  # either may belong to the password
        return f"{scheme}://..."
    return f"{scheme}://{base.rpartition('@')[2]}"
