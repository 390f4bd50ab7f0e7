"""Open the database of events by its address, SQLite or PostgreSQL, and run transactions in it."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimixer.errors import UnimixerError, io_failure
from unimixer.postgres import (
    DatabaseError,
    connect,
    driver,
    is_address,
    limit_statements,
    parse_address,
    sentence,
    watched,
)

if TYPE_CHECKING:
    import psycopg

SQLITE = "sqlite:///"
TASK = "events of experiments in PostgreSQL"
BATCH = 10_000
"""Largest number of rows of one statement."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Database(ABC):
    """A connection that is opened when it is needed, and again after an error; one transaction runs at a time."""

    name: str
    """How messages name the database; without a password."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Keep all changes inside, or none.

        Args:
            write: whether rows change; a transaction that only reads sees one state and stops no writer.

        Raises:
            DatabaseError: the database cannot be used now; whether the changes were kept is not known.
        """
        with self._lock, self._transaction(write):
            yield

    @abstractmethod
    def _transaction(self, write: bool) -> Any: ...

    @abstractmethod
    def json_text(self, column: str, key: str) -> tuple[str, str]:
        """Return an expression with one ``?`` for the text of a key in a column of JSON, and its value."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement with ``?`` for its values inside a transaction; return its rows."""

    @abstractmethod
    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement inside a transaction; return the number of changed rows."""

    @abstractmethod
    def insert(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
        """Insert the rows whose key the table lacks; return their number."""

    @abstractmethod
    def lock_for_setup(self) -> None:
        """Let others who create tables wait."""

    @abstractmethod
    def columns(self, table: str) -> set[str]:
        """Return the columns of a table; none if there is no such table."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def open_database(address: str, *, timeout: float, create: bool) -> Database:
    """Return the database of an address; SQLite makes the file if ``create``.

    Args:
        address: ``sqlite:///FILE`` or ``postgresql://user@host:port/db``.
        timeout: seconds that a statement or the lock of a file may take.
        create: whether a missing SQLite file is made.

    Raises:
        UnimixerError: it is no such address, or the file is missing.
    """
    if is_address(address):
        return _Postgres(address, timeout)
    if not address.startswith(SQLITE) or address in (SQLITE, f"{SQLITE}:memory:"):
        scheme = address.partition("://")[0] + "://..." if "://" in address else repr(address)
        raise UnimixerError(f"events: {scheme} is no database; use sqlite:///FILE or postgresql://user@host:port/db")
    path = Path(address.removeprefix(SQLITE))
    if not create and not path.is_file():
        raise UnimixerError(f"{path}: no such file; unimixer serve and unimixer abtest load make it")
    return _SQLite(path, timeout)


class _SQLite(Database):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self.path, self.name, self._timeout = path, f"{SQLITE}{path}", timeout
        self._open: sqlite3.Connection | None = None
        self._file: int | None = None

    @contextmanager
    def _transaction(self, write: bool) -> Iterator[None]:
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.close()
            raise DatabaseError(f"{self.path}: the events cannot be used now ({_reason(error)})") from None

    def _connection(self) -> sqlite3.Connection:
        """Return the connection; a file that has lost its name would keep what nobody finds."""
        if self._open is None:
            self._open = sqlite3.connect(
                self.path, isolation_level=None, timeout=self._timeout, check_same_thread=False
            )
            self._open.execute("PRAGMA journal_mode = WAL")  # readers wait for no writer
            self._open.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
            self._file = self.path.stat().st_ino
        elif not self.path.exists() or self.path.stat().st_ino != self._file:
            self.close()
            raise DatabaseError(f"{self.path}: the file was moved or removed; put it back, or start again")
        return self._open

    def json_text(self, column: str, key: str) -> tuple[str, str]:
        # a path cannot name every key, and takes booleans for numbers
        text = "CASE type WHEN 'true' THEN type WHEN 'false' THEN type ELSE CAST(value AS TEXT) END"
        return f"(SELECT {text} FROM json_each({column}) WHERE key = ?)", key

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        assert self._open is not None
        return self._open.execute(statement, values).fetchall()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        assert self._open is not None
        return self._open.execute(statement, values).rowcount

    def insert(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
        assert self._open is not None
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        return self._open.executemany(statement, rows).rowcount

    def lock_for_setup(self) -> None:
        """A transaction has the file to itself."""

    def columns(self, table: str) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM pragma_table_info(?)", [table])}

    def close(self) -> None:
        if self._open is not None:
            with suppress(sqlite3.Error):
                self._open.close()
            self._open = None


def _reason(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    failure = io_failure(error)
    if code in _BUSY:
        return "another process is writing to it"
    return f"{failure.reason}; {failure.way_out}" if failure is not None else str(error)


class _Postgres(Database):
    def __init__(self, address: str, timeout: float) -> None:
        super().__init__()
        self._driver = driver(TASK)
        if "table=" in address.partition("?")[2]:
            raise UnimixerError("events: the address names a table, but events have four; leave ?table= out")
        self._address = parse_address(address, table="exposures", task=TASK)
        self.name, self._timeout = self._address.name, timeout
        self._open: psycopg.Connection[Any] | None = None

    @contextmanager
    def _transaction(self, write: bool) -> Iterator[None]:
        try:
            if self._open is None or self._open.closed:
                self._open = connect(self._address, self._driver, seconds=max(2, round(self._timeout)))
            with watched(self._open, self._timeout), self._open.transaction():
                limit_statements(self._open, self._timeout)
                if not write:
                    self._open.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    # whole tables are joined, and new ones have no statistics that would tell
                    self._open.execute("SET LOCAL enable_nestloop = off")
                    self._open.execute("SET LOCAL work_mem = '128MB'")
                yield
        except self._driver.Error as error:
            self.close()
            reason = sentence(error, self._address)
            raise DatabaseError(f"{self.name}: the events cannot be used now ({reason})") from None

    def json_text(self, column: str, key: str) -> tuple[str, str]:
        return f"({column}::json ->> ?)", key

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        assert self._open is not None
        cursor = self._open.execute(statement.replace("?", "%s").encode(), values)
        return cursor.fetchall() if cursor.description else []

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        assert self._open is not None
        return self._open.execute(statement.replace("?", "%s").encode(), values).rowcount

    def insert(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
        assert self._open is not None
        added = 0
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        statement = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
        for start in range(0, len(rows), BATCH):
            batch = zip(*rows[start : start + BATCH], strict=True)
            values = [_of_one_type(column, kind) for column, kind in zip(batch, types, strict=True)]
            added += self._open.execute(statement.encode(), values).rowcount
        return added

    def lock_for_setup(self) -> None:
        self.execute("SELECT pg_advisory_xact_lock(hashtextextended('unimixer events', 0))")

    def columns(self, table: str) -> set[str]:
        query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped"
        return {name for (name,) in self.execute(query, [table])}

    def close(self) -> None:
        if self._open is not None:
            with suppress(self._driver.Error):
                self._open.close()
            self._open = None


def _of_one_type(column: Sequence[Any], kind: str) -> list[Any]:
    """Return a list that the driver takes for an array: whole numbers among floats are floats."""
    if kind != "DOUBLE PRECISION":
        return list(column)
    return [None if value is None else float(value) for value in column]
