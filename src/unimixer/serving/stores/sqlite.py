"""Keep a feature store in one SQLite file: the default, without a server to install or run."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from unimixer.errors import UnimixerError
from unimixer.io import kind_of
from unimixer.serving.stores import sqlite_events, sqlite_file
from unimixer.serving.stores.base import (
    FORMAT,
    KINDS,
    TIMEOUT_S,
    Event,
    FeatureStore,
    Kind,
    Rows,
    StoreUnavailableError,
    UserView,
    wrong_format,
)
from unimixer.serving.stores.records import Columns, Record, Row, dumps

_SCHEMA = """
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
_TABLES = (*KINDS, "events")
_KEYS = 500
"""Keys per query; SQLite limits the parameters of a query."""


class SQLiteStore(FeatureStore):
    """Read and write a feature store in one file; many threads and processes read, one writes at a time.

    The store detects that a build replaced the file, or that another file was copied over it, and opens the new file.

    Args:
        path: the file; it must exist, see :func:`create`.
        timeout: seconds that a call waits for a lock.
        name: name of the store in messages (default: the path).
    """

    def __init__(self, path: Path, *, timeout: float = TIMEOUT_S, name: str | None = None) -> None:
        if not path.is_file():
            problem = (
                f"is {kind_of(path) or 'a folder'}, not a feature store" if path.is_dir() else "no such feature store"
            )
            raise UnimixerError(f"{path}: {problem}; make one with: unimixer store build")
        self.path, self.timeout, self.name = path, timeout, name or str(path)
        self._local, self._lock = threading.local(), threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._checked: int | None = None
        try:
            with self._reading():
                pass
        except BaseException:
            self.close()
            raise

    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> UserView:
        """See :meth:`FeatureStore.view`."""
        with self._reading() as (connection, generation, clock):
            if user is None:
                return UserView(generation, clock, events={event: [] for event in windows})
            row = connection.execute("SELECT revision, data FROM users WHERE key = ?", (user,)).fetchone()
            events = {
                event: sqlite_events.last(connection, user, event, before, limit) for event, limit in windows.items()
            }
            return UserView(generation, clock, None if row is None else Record(*row), events)

    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        """See :meth:`FeatureStore.read`."""
        records: dict[str, Record] = {}
        with self._reading() as (connection, generation, clock):
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, revision, data FROM {kind} WHERE key IN ({marks})"
                records |= {key: Record(revision, data) for key, revision, data in connection.execute(query, some)}
        return Rows(generation, clock, records)

    def changed(self, kind: Kind, since: int) -> list[str]:
        """See :meth:`FeatureStore.changed`."""
        with self._reading() as (connection, *_):
            return [key for (key,) in connection.execute(f"SELECT key FROM {kind} WHERE revision > ?", (since,))]

    def columns(self, kind: Kind) -> Columns:
        """See :meth:`FeatureStore.columns`."""
        with self._reading() as (connection, *_):
            return self._columns(connection, kind)

    def counts(self) -> dict[str, int]:
        """See :meth:`FeatureStore.counts`."""
        with self._reading() as (connection, *_):
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _TABLES}

    def has_data(self) -> bool:
        """See :meth:`FeatureStore.has_data`."""
        with self._reading() as (connection, *_):
            return any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in _TABLES)

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
            events = sqlite_events.new(connection, events)
            number = int(self._meta(connection)["events"])
            self._set(connection, "events", str(number + len(events)))
            sqlite_events.add(connection, events, number)
            longest = self._longest(connection)
            for user, event in {(e.user, e.event) for e in events if e.event in longest}:
                sqlite_events.trim(connection, user, event, longest[event] + self.margin)
        return len(events)

    def expect(self, longest: Mapping[str, int]) -> None:
        """See :meth:`FeatureStore.expect`; writes only new values, so a read-only file can be served."""
        with self._reading() as (connection, *_):
            known = self._longest(connection)
        if all(known.get(event, 0) >= length for event, length in longest.items()):
            return
        with self._writing() as connection:
            known = self._longest(connection)
            raised = {event: max(length, known.get(event, 0)) for event, length in longest.items()}
            self._set(connection, "longest histories", json.dumps({**known, **raised}))

    @contextmanager
    def filling(self, *, overwrite: bool) -> Iterator[None]:
        """See :meth:`FeatureStore.filling`; readers may wait until all writes are done."""
        with self._writing() as connection:
            if not overwrite and self.has_data():
                raise UnimixerError(f"{self.name} exists; choose another file, or pass --overwrite to replace it")
            for table in (*KINDS, "meta"):
                connection.execute(f"DELETE FROM {table}")
            sqlite_events.forget(connection)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", _facts())
            yield

    def close(self) -> None:
        """See :meth:`FeatureStore.close`."""
        with self._lock:
            for connection in self._open:
                with suppress(sqlite3.Error):
                    connection.close()
            self._open.clear()
            self._local, self._checked = threading.local(), None

    # ---- connections ----------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, str, int]]:
        """Yield this thread's connection, the generation and the clock: all reads inside see one state.

        The locks of SQLite prevent changes meanwhile, so a file that changes was overwritten by a copy.
        """
        with self._using() as connection:
            if connection.in_transaction:
                yield connection, *self._state(connection)
                return
            connection.execute("BEGIN")
            try:
                state, before = (
                    sqlite_file.retry_while_locked(lambda: self._state(connection), self.timeout),
                    self._stat(),
                )
                yield connection, *state
                after = self._stat()
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        if before.st_ino == after.st_ino and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            self._drop()
            raise self._unavailable("the file was overwritten during the read; replace a store with: mv NEW OLD")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction; an inner transaction joins the outer one."""
        with self._using() as connection:
            if connection.in_transaction:
                yield connection
                return
            inode = self._local.inode
            sqlite_file.retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"), self.timeout)
            try:
                self._state(connection)
                sqlite_file.mark(connection)
                yield connection
                sqlite_file.retry_while_locked(lambda: connection.execute("COMMIT"), self.timeout)
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        if self._stat().st_ino != inode:
            raise self._unavailable("another file replaced it during the write; send the write again")

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection, and turn errors of SQLite into one sentence."""
        try:
            yield self._connection()
        except sqlite3.Error as error:
            self._drop()  # the next call opens the file again
            raise self._unavailable(sqlite_file.reason(error)) from error

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection to the current file."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.in_transaction:
            return connection
        while connection is None or self._stat().st_ino != self._local.inode:
            self._drop()
            with self._lock:
                inode = self._stat().st_ino
                if inode != self._checked:
                    sqlite_file.check_beside(self.path, self.timeout)
                    self._checked = inode
                connection = sqlite_file.connect(self.path, self.timeout)
                self._open.append(connection)
            # SQLite opens by name: if another file took the name meanwhile, the loop opens that one
            self._local.connection, self._local.inode = connection, inode
        return connection

    def _drop(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        with self._lock:
            if connection in self._open:
                self._open.remove(connection)
                connection.close()
            if not self._open:
                self._checked = None  # without an open connection, another file may get the same inode

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.name}: the feature store cannot be used now ({reason})")

    def _state(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """Read the generation and the clock.

        Raises:
            StoreUnavailableError: the file is not a store of this version.
        """
        query = "SELECT name, value FROM meta WHERE name IN ('clock', 'format', 'generation')"
        facts = dict(connection.execute(query).fetchall())
        if facts.get("format") != str(FORMAT):
            raise wrong_format(self.name, facts.get("format"))
        try:
            return facts["generation"], int(facts["clock"])
        except (KeyError, ValueError):
            raise self._unavailable(sqlite_file.DAMAGED) from None

    @staticmethod
    def _meta(connection: sqlite3.Connection) -> dict[str, str]:
        return dict(connection.execute("SELECT name, value FROM meta"))

    @staticmethod
    def _columns(connection: sqlite3.Connection, kind: Kind) -> Columns:
        name = f"columns of {kind}"
        row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        columns: Columns = json.loads(row[0])
        return columns

    @classmethod
    def _longest(cls, connection: sqlite3.Connection) -> dict[str, int]:
        longest: dict[str, int] = json.loads(cls._meta(connection).get("longest histories", "{}"))
        return longest

    @staticmethod
    def _set(connection: sqlite3.Connection, name: str, value: str) -> None:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def create(path: Path) -> None:
    """Create an empty store in a new file."""
    rows = ", ".join(f"('{name}', '{value}')" for name, value in _facts())
    sqlite_file.create(path, f"{_SCHEMA} INSERT INTO meta VALUES {rows};")


def _facts() -> list[tuple[str, str]]:
    facts = {
        "format": FORMAT,
        "generation": uuid.uuid4().hex,
        "clock": 0,
        "events": 0,
        "columns of users": "{}",
        "columns of items": "{}",
    }
    return [(name, str(value)) for name, value in facts.items()]
