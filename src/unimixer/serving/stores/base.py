"""The feature store: raw rows of users and items and the events of users, behind one small interface."""

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
"""Schemes of an address of Redis."""
EVERY = ""
"""Name under which the events of a history stand that every impression enters."""
FORMAT = 1
PATIENCE_S = 1.0
"""Seconds that a call waits for the store; less than a request has."""
MARGIN = 1_000
"""Events that are kept of a user and kind beyond the longest history that is asked for."""
IDS_KEPT_S = 86_400
"""Seconds for which an event that is sent again is known by its id."""


class StoreUnavailableError(UnimixerError):
    """The store cannot be read or written now; a later try may succeed."""


def wrong_format(name: str, found: str | None) -> StoreUnavailableError:
    """The error for what another version wrote."""
    return StoreUnavailableError(f"{name}: format {found}, this version reads {FORMAT}; build the store again")


@dataclass(frozen=True)
class Event:
    """A user met an item; ``event`` is the column of the log that was 1, or :data:`EVERY`.

    ``id`` is the sender's name of the impression: one that is sent again within :data:`IDS_KEPT_S` adds nothing.
    """

    user: str
    item: str
    time: int
    event: str
    id: str | None = None


@dataclass(frozen=True)
class View:
    """What a request needs of its user, read at one moment.

    ``events`` holds, for every kind of event asked for, the keys of the last items before the request, oldest first.
    A store that is filled anew gets another ``generation``: nothing made from its rows before is of use.
    """

    generation: str
    clock: int
    user: Record | None = None
    events: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows that exist, by key, and the state of the store at the moment that they were read."""

    generation: str
    clock: int
    records: dict[str, Record]


class FeatureStore(ABC):
    """Raw rows by key, and events by user and time.

    Every change of rows gets the next number of the store's clock, which is the revision of the rows it touched; who
    keeps something made from rows asks what changed since. Keys are canonical texts. Calls may come from any thread.

    Of a user's events of one kind, an append keeps the last ``longest + margin``: ``longest`` is the longest history
    that :meth:`expect` was told of, ``margin`` keeps the past of requests that come late or are computed again.

    Raises:
        StoreUnavailableError: by every method, while the store cannot be reached.
    """

    name: str
    """How messages name the store; without a password."""
    margin: int = MARGIN

    @abstractmethod
    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> View:
        """A user's row and the last ``windows[event]`` events strictly earlier than ``before`` (ms)."""

    @abstractmethod
    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        """The rows that exist, read at one moment."""

    @abstractmethod
    def changed(self, kind: Kind, since: int) -> list[str]:
        """Keys of rows that changed after the clock stood at ``since``."""

    @abstractmethod
    def columns(self, kind: Kind) -> Columns:
        """The columns that rows have, and their types."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Number of users, items and events."""

    @abstractmethod
    def has_data(self) -> bool:
        """Whether there is any user, item or event; costs the same for a store of any size."""

    @abstractmethod
    def write(self, kind: Kind, rows: Mapping[str, Row], columns: Columns) -> int:
        """Write typed rows over the columns that stored ones have; returns the revision."""

    @abstractmethod
    def append(self, events: Sequence[Event]) -> int:
        """Add events, and return how many; those of one user at one time keep their order.

        The oldest beyond the bound go. Events whose id an earlier call has added are left out.
        """

    @abstractmethod
    def expect(self, longest: Mapping[str, int]) -> None:
        """Remember the longest history that is asked for, by kind of event; the largest of all bundles counts.

        Events of a kind that nobody expects are all kept: a store that is being filled has the whole past.
        """

    @abstractmethod
    def filling(self, *, overwrite: bool) -> AbstractContextManager[None]:
        """Fill the store anew with the writes inside.

        Raises:
            UnimixerError: if it holds anything and must not be, or cannot be, replaced.
        """

    @abstractmethod
    def close(self) -> None:
        """Give connections back."""

    def records(self, kind: Kind, keys: Sequence[str]) -> dict[str, Record]:
        """The rows that exist."""
        return self.read(kind, keys).records

    def users(self, key: str) -> Record | None:
        """One user."""
        return self.records("users", [key]).get(key)

    def items(self, keys: Sequence[str]) -> dict[str, Record]:
        """The items that exist."""
        return self.records("items", keys)

    def put(self, kind: Kind, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change rows: a column that is not given keeps its value, one that is null loses it.

        Args:
            kind: users or items.
            key: column of the key.
            rows: plain JSON values by column.

        Returns:
            The revision of the rows.

        Raises:
            UnimixerError: a row without a key, a key that stands twice, or a value of another type than its column.
        """
        others = [{name: value for name, value in row.items() if name != key} for row in rows]
        columns, typed = fit_columns(self.columns(kind), others, where=kind)
        keyed: dict[str, Row] = {}
        for number, (text, row) in enumerate(zip(canonical([r.get(key) for r in rows]), typed, strict=True), 1):
            if text is None:
                raise UnimixerError(f"{kind}, row {number}: {key} is missing; every row needs its key")
            check_length(text, f"{kind}, row {number}: {key}")
            if text in keyed:
                raise UnimixerError(f"{kind}, row {number}: {key}={text!r} stands twice; send it once")
            keyed[text] = {key: text, **row}
        return self.write(kind, keyed, {**columns, key: "text"})

    def put_users(self, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change users."""
        return self.put("users", key, rows)

    def put_items(self, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add or change items."""
        return self.put("items", key, rows)

    def append_events(self, events: Sequence[Event]) -> int:
        """Add events that have a time; returns the number of those that are new.

        Raises:
            UnimixerError: a key is too long; or an event is from before every log: such events are the snapshot column
                of the user.
        """
        for number, event in enumerate(events, 1):
            if len(event.user) > MAX_KEY or len(event.item) > MAX_KEY:
                check_length(max(event.user, event.item, key=len), f"events, row {number}")
        if any(event.time <= BEFORE_THE_LOG for event in events):
            raise UnimixerError("an event needs its time; items from before the log are the user's snapshot column")
        return self.append(events)


def longest_histories(schema: Schema) -> dict[str, int]:
    """The longest history by kind of event."""
    found: dict[str, int] = {}
    for history in schema.histories:
        event = history.event or EVERY
        found[event] = max(history.max_length, found.get(event, 0))
    return found


def is_redis(place: str) -> bool:
    """Whether a place is an address of Redis, and not a file.

    Raises:
        UnimixerError: an address of something else; the message repeats nothing but its scheme.
    """
    scheme, separator, _ = place.partition("://")
    if separator and scheme not in REDIS:
        raise UnimixerError(f"{scheme}://...: no address of a feature store; use a file, or redis://host:port/db")
    return bool(separator)


def shown(place: str) -> str:
    """A place as messages show it: an address without its user, its password and its query."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
    base, _, query = rest.partition("?")
    if "@" in query and "@" not in base:  # the password may have a question mark, or the query may have it
        return f"{scheme}://..."
    return f"{scheme}://{base.rpartition('@')[2]}"
