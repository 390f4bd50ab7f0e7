"""Events of a SQLite store: added once, read from the last one back, and trimmed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from unimixer.serving.stores.base import IDS_KEPT_S, Event

_TRIM = """
DELETE FROM events WHERE user = ?1 AND event = ?2 AND (time, number) <= (
    SELECT time, number FROM events WHERE user = ?1 AND event = ?2 ORDER BY time DESC, number DESC LIMIT 1 OFFSET ?3
)
"""


def last(connection: sqlite3.Connection, user: str, event: str, before: int, limit: int) -> list[str]:
    """Items of the last events strictly earlier than ``before``, oldest first."""
    query = "SELECT item FROM events WHERE user = ? AND event = ? AND time < ? ORDER BY time DESC, number DESC LIMIT ?"
    return [item for (item,) in connection.execute(query, (user, event, before, limit))][::-1]


def new(connection: sqlite3.Connection, events: Sequence[Event]) -> Sequence[Event]:
    """Events that were not added before; their ids are kept for some time, with the events or not at all."""
    ids = {event.id for event in events if event.id is not None}
    if not ids:
        return events
    now = int(time.time())
    connection.execute("CREATE TABLE IF NOT EXISTS event_ids (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID")
    connection.execute("CREATE INDEX IF NOT EXISTS event_ids_by_time ON event_ids (at)")
    connection.execute("DELETE FROM event_ids WHERE at <= ?", (now - IDS_KEPT_S,))
    insert = "INSERT OR IGNORE INTO event_ids VALUES (?, ?)"
    known = {name for name in ids if connection.execute(insert, (name, now)).rowcount == 0}
    return [event for event in events if event.id not in known]


def add(connection: sqlite3.Connection, events: Sequence[Event], number: int) -> None:
    """Add events; the first one gets the number."""
    rows = ((e.user, e.event, e.time, number + i, e.item) for i, e in enumerate(events))
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)


def trim(connection: sqlite3.Connection, user: str, event: str, limit: int) -> None:
    """Keep the last events of a user and kind."""
    connection.execute(_TRIM, (user, event, limit))


def forget(connection: sqlite3.Connection) -> None:
    """Forget all events and ids."""
    connection.execute("DELETE FROM events")
    connection.execute("DROP TABLE IF EXISTS event_ids")
