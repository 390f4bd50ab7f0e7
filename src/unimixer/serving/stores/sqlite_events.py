"""Read, add and trim the events of a SQLite store."""

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
    """Read the items of the last events strictly earlier than ``before``, oldest first."""
    query = "SELECT item FROM events WHERE user = ? AND event = ? AND time < ? ORDER BY time DESC, number DESC LIMIT ?"
    return [item for (item,) in connection.execute(query, (user, event, before, limit))][::-1]


def new(connection: sqlite3.Connection, events: Sequence[Event]) -> Sequence[Event]:
    """Return the events whose id is new, and record their ids in the same transaction."""
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
    """Add events, numbered from ``number`` on."""
    rows = ((e.user, e.event, e.time, number + i, e.item) for i, e in enumerate(events))
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)


def trim(connection: sqlite3.Connection, user: str, event: str, limit: int) -> None:
    """Delete all but the last ``limit`` events of a user and kind."""
    connection.execute(_TRIM, (user, event, limit))


def forget(connection: sqlite3.Connection) -> None:
    """Delete all events and ids."""
    connection.execute("DELETE FROM events")
    connection.execute("DROP TABLE IF EXISTS event_ids")
