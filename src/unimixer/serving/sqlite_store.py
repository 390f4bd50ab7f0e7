"""The store in one SQLite file: the default, with nothing to install and nothing to run."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from unimixer.errors import UnimixerError
from unimixer.serving.records import Columns, Record, Row, dumps
from unimixer.serving.store import (
    FORMAT,
    IDS_KEPT_S,
    PATIENCE_S,
    Event,
    FeatureStore,
    Kind,
    StoreUnavailableError,
    View,
)

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE users (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    user TEXT NOT NULL, event TEXT NOT NULL, time INTEGER NOT NULL, number INTEGER NOT NULL, item TEXT NOT NULL,
    PRIMARY KEY (user, event, time, number)
) WITHOUT ROWID;
CREATE INDEX users_by_revision ON users (revision);
CREATE INDEX items_by_revision ON items (revision);
"""
_TRIM = """
DELETE FROM events WHERE user = ?1 AND event = ?2 AND (time, number) <= (
    SELECT time, number FROM events WHERE user = ?1 AND event = ?2 ORDER BY time DESC, number DESC LIMIT 1 OFFSET ?3
)
"""
_KEYS = 500
"""Keys a query names; SQLite limits its parameters."""


class SQLiteStore(FeatureStore):
    """One file, read by many threads and processes while another writes (write-ahead log).

    A file that a build has put in the place of the old one is noticed and opened.

    Args:
        path: the file; it must exist, see :func:`create`.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UnimixerError(f"{path}: no such feature store; make one with: unimixer store build")
        self.path, self.name = path, str(path)
        self._local, self._lock = threading.local(), threading.Lock()
        self._open: list[sqlite3.Connection] = []
        with self._reading() as connection:
            form = self._meta(connection).get("format")
        if form != str(FORMAT):
            raise UnimixerError(f"{path}: format {form}, this version reads {FORMAT}; build the store again")

    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> View:
        """See :meth:`FeatureStore.view`."""
        with self._reading() as connection:
            generation, clock = self._state(connection)
            if user is None:
                return View(generation, clock, events={event: [] for event in windows})
            found = connection.execute("SELECT revision, data FROM users WHERE key = ?", (user,)).fetchone()
            events = {
                event: [
                    item
                    for (item,) in connection.execute(
                        "SELECT item FROM events WHERE user = ? AND event = ? AND time < ? "
                        "ORDER BY time DESC, number DESC LIMIT ?",
                        (user, event, before, limit),
                    )
                ][::-1]
                for event, limit in windows.items()
            }
            return View(generation, clock, None if found is None else Record(*found), events)

    def records(self, kind: Kind, keys: Sequence[str]) -> dict[str, Record]:
        """See :meth:`FeatureStore.records`."""
        found: dict[str, Record] = {}
        with self._reading() as connection:
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, revision, data FROM {kind} WHERE key IN ({marks})"
                found |= {key: Record(revision, data) for key, revision, data in connection.execute(query, some)}
        return found

    def changed(self, kind: Kind, since: int) -> list[str]:
        """See :meth:`FeatureStore.changed`."""
        with self._reading() as connection:
            return [key for (key,) in connection.execute(f"SELECT key FROM {kind} WHERE revision > ?", (since,))]

    def columns(self, kind: Kind) -> Columns:
        """See :meth:`FeatureStore.columns`."""
        with self._reading() as connection:
            return self._columns(connection, kind)

    def counts(self) -> dict[str, int]:
        """See :meth:`FeatureStore.counts`."""
        with self._reading() as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("users", "items", "events")
            }

    def write(self, kind: Kind, rows: Mapping[str, Row], columns: Columns) -> int:
        """See :meth:`FeatureStore.write`."""
        with self._writing() as connection:
            revision = self._state(connection)[1] + 1
            self._set(connection, "clock", str(revision))
            self._set(connection, f"columns of {kind}", json.dumps({**self._columns(connection, kind), **columns}))
            for key, row in rows.items():
                old = connection.execute(f"SELECT data FROM {kind} WHERE key = ?", (key,)).fetchone()
                values = {**json.loads(old[0]), **row} if old else row
                connection.execute(f"INSERT OR REPLACE INTO {kind} VALUES (?, ?, ?)", (key, revision, dumps(values)))
        return revision

    def append(self, events: Sequence[Event]) -> int:
        """See :meth:`FeatureStore.append`."""
        with self._writing() as connection:
            events = self._new(connection, events)
            number = int(self._meta(connection)["events"])
            self._set(connection, "events", str(number + len(events)))
            connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                ((e.user, e.event, e.time, number + i, e.item) for i, e in enumerate(events)),
            )
            longest = self._longest(connection)
            for user, event in {(e.user, e.event) for e in events if e.event in longest}:
                connection.execute(_TRIM, (user, event, longest[event] + self.margin))
        return len(events)

    def expect(self, longest: Mapping[str, int]) -> None:
        """See :meth:`FeatureStore.expect`; writes only what is new, so a file that cannot be written may be served."""
        with self._reading() as connection:
            known = self._longest(connection)
        if all(known.get(event, 0) >= length for event, length in longest.items()):
            return
        with self._writing() as connection:
            known = self._longest(connection)
            raised = {event: max(length, known.get(event, 0)) for event, length in longest.items()}
            self._set(connection, "longest histories", json.dumps({**known, **raised}))

    @contextmanager
    def filling(self, *, overwrite: bool) -> Iterator[None]:
        """See :meth:`FeatureStore.filling`; readers see the old content until all of the new one is written."""
        with self._writing() as connection:
            if not overwrite and any(self.counts().values()):
                raise UnimixerError(f"{self.path} exists; choose another file, or pass --overwrite to replace it")
            for table in ("users", "items", "events", "meta"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DROP TABLE IF EXISTS event_ids")
            _start(connection)
            yield

    def close(self) -> None:
        """See :meth:`FeatureStore.close`."""
        with self._lock:
            for connection in self._open:
                with suppress(sqlite3.Error):
                    connection.close()
            self._open.clear()
            self._local = threading.local()

    # ---- connections ----------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection; what SQLite refuses becomes one sentence."""
        try:
            yield self._connection()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"{self.path}: the feature store cannot be used now ({error})") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is written, or nothing; inside another one it is a part of that."""
        with self._reading() as connection:
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _connection(self) -> sqlite3.Connection:
        try:
            inode = self.path.stat().st_ino
        except OSError as error:
            raise StoreUnavailableError(
                f"{self.path}: the feature store cannot be used now ({error.strerror})"
            ) from error
        if getattr(self._local, "inode", None) != inode:
            connection = connect(self.path, self.patience)
            with self._lock:
                old: sqlite3.Connection | None = getattr(self._local, "connection", None)
                if old is not None:
                    self._open.remove(old)
                    old.close()
                self._open.append(connection)
            self._local.connection, self._local.inode = connection, inode
        found: sqlite3.Connection = self._local.connection
        return found

    @staticmethod
    def _new(connection: sqlite3.Connection, events: Sequence[Event]) -> Sequence[Event]:
        """Events that were not added before; their ids are kept for some time, with the events or not at all."""
        ids = {event.id for event in events if event.id is not None}
        if not ids:
            return events
        now = int(time.time())
        connection.execute(
            "CREATE TABLE IF NOT EXISTS event_ids (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID"
        )
        connection.execute("CREATE INDEX IF NOT EXISTS event_ids_by_time ON event_ids (at)")
        connection.execute("DELETE FROM event_ids WHERE at <= ?", (now - IDS_KEPT_S,))
        insert = "INSERT OR IGNORE INTO event_ids VALUES (?, ?)"
        known = {name for name in ids if connection.execute(insert, (name, now)).rowcount == 0}
        return [event for event in events if event.id not in known]

    @staticmethod
    def _meta(connection: sqlite3.Connection) -> dict[str, str]:
        return dict(connection.execute("SELECT name, value FROM meta"))

    @staticmethod
    def _state(connection: sqlite3.Connection) -> tuple[str, int]:
        """Generation and clock."""
        found = connection.execute("SELECT value FROM meta WHERE name IN ('clock', 'generation') ORDER BY name")
        facts = found.fetchall()
        if len(facts) != 2:
            raise StoreUnavailableError("the feature store is not whole; build it again: unimixer store build")
        (clock,), (generation,) = facts
        return generation, int(clock)

    @staticmethod
    def _columns(connection: sqlite3.Connection, kind: Kind) -> Columns:
        name = f"columns of {kind}"
        found = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        columns: Columns = json.loads(found[0])
        return columns

    @classmethod
    def _longest(cls, connection: sqlite3.Connection) -> dict[str, int]:
        found: dict[str, int] = json.loads(cls._meta(connection).get("longest histories", "{}"))
        return found

    @staticmethod
    def _set(connection: sqlite3.Connection, name: str, value: str) -> None:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def connect(path: Path, patience: float = PATIENCE_S) -> sqlite3.Connection:
    """A connection that waits for a writer, for some seconds, instead of failing."""
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def create(path: Path) -> None:
    """Make an empty store in a new file."""
    connection = sqlite3.connect(path, isolation_level=None)
    with closing(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        _start(connection)


def _start(connection: sqlite3.Connection) -> None:
    facts = {
        "format": FORMAT,
        "generation": uuid.uuid4().hex,
        "clock": 0,
        "events": 0,
        "columns of users": "{}",
        "columns of items": "{}",
    }
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [(name, str(value)) for name, value in facts.items()])
