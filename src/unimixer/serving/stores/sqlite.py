"""The store in one SQLite file: the default, with nothing to install and nothing to run."""

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
    PATIENCE_S,
    Event,
    FeatureStore,
    Kind,
    Rows,
    StoreUnavailableError,
    View,
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
"""Keys a query names; SQLite limits its parameters."""


class SQLiteStore(FeatureStore):
    """One file, read by many threads and processes, written by one at a time.

    A file that a build has put in the place of the old one is noticed and opened; so is one that was copied over it.

    Args:
        path: the file; it must exist, see :func:`create`.
        patience: seconds that a call waits for a writer.
        name: how messages name the store (default: the path).
    """

    def __init__(self, path: Path, *, patience: float = PATIENCE_S, name: str | None = None) -> None:
        if not path.is_file():
            what = (
                f"is {kind_of(path) or 'a folder'}, not a feature store" if path.is_dir() else "no such feature store"
            )
            raise UnimixerError(f"{path}: {what}; make one with: unimixer store build")
        self.path, self.patience, self.name = path, patience, name or str(path)
        self._local, self._lock = threading.local(), threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._checked: int | None = None
        with self._reading():
            pass

    def view(self, user: str | None, windows: Mapping[str, int], before: int) -> View:
        """See :meth:`FeatureStore.view`."""
        with self._reading() as (connection, generation, clock):
            if user is None:
                return View(generation, clock, events={event: [] for event in windows})
            found = connection.execute("SELECT revision, data FROM users WHERE key = ?", (user,)).fetchone()
            events = {
                event: sqlite_events.last(connection, user, event, before, limit) for event, limit in windows.items()
            }
            return View(generation, clock, None if found is None else Record(*found), events)

    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        """See :meth:`FeatureStore.read`."""
        found: dict[str, Record] = {}
        with self._reading() as (connection, generation, clock):
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, revision, data FROM {kind} WHERE key IN ({marks})"
                found |= {key: Record(revision, data) for key, revision, data in connection.execute(query, some)}
        return Rows(generation, clock, found)

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
        """See :meth:`FeatureStore.expect`; writes only what is new, so a file that cannot be written may be served."""
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
        """See :meth:`FeatureStore.filling`; readers may have to wait until all is written."""
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
        """This thread's connection, the generation and the clock: all reads inside are of one moment.

        Nobody who keeps to the locks of SQLite changes the file meanwhile: one that changes is being copied over.
        """
        with self._using() as connection:
            if connection.in_transaction:
                yield connection, *self._state(connection)
                return
            connection.execute("BEGIN")
            try:
                state, before = sqlite_file.patiently(lambda: self._state(connection), self.patience), self._stat()
                yield connection, *state
                after = self._stat()
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        if before.st_ino == after.st_ino and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            self._drop()
            raise self._unavailable("it was written over while it was read; replace a store with: mv NEW OLD")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is written, or nothing; inside another one it is a part of that."""
        with self._using() as connection:
            if connection.in_transaction:
                yield connection
                return
            inode = self._local.inode
            sqlite_file.patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.patience)
            try:
                self._state(connection)
                sqlite_file.mark(connection)
                yield connection
                sqlite_file.patiently(lambda: connection.execute("COMMIT"), self.patience)
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        if self._stat().st_ino != inode:
            raise self._unavailable("another file took its place while this was written; send it again")

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection; what SQLite refuses becomes one sentence."""
        try:
            yield self._connection()
        except sqlite3.Error as error:
            self._drop()  # the next call begins with what is there then
            raise self._unavailable(sqlite_file.reason(error)) from error

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None and found.in_transaction:
            return found
        while found is None or self._stat().st_ino != self._local.inode:
            self._drop()
            with self._lock:
                inode = self._stat().st_ino
                if inode != self._checked:
                    sqlite_file.check_beside(self.path, self.patience)
                    self._checked = inode
                found = sqlite_file.connect(self.path, self.patience)
                self._open.append(found)
            # SQLite opens by name: should another file have taken it meanwhile, the loop opens that one
            self._local.connection, self._local.inode = found, inode
        return found

    def _drop(self) -> None:
        """Close this thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        with self._lock:
            if found in self._open:
                self._open.remove(found)
                found.close()
            if not self._open:
                self._checked = None  # nobody holds the file any more: another one may get its number

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.name}: the feature store cannot be used now ({reason})")

    def _state(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """Generation and clock.

        Raises:
            StoreUnavailableError: the file is no store of this version.
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


def create(path: Path) -> None:
    """Make an empty store in a new file."""
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
