"""Create and open the SQLite file of a store, and detect journals that other files left next to it.

A store must be one file, so it uses a rollback journal and no write-ahead log: the log would be a part of the store
that does not move with the file. SQLite finds journals and logs by name and applies them to any file with that name.
Without a log, the file is complete between two changes. A journal next to it is checked before the file is opened.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from unimixer.serving.stores.base import StoreUnavailableError

Result = TypeVar("Result")
DAMAGED = "the file is damaged; build the store again"
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process is writing to it or has locked it",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database, or is damaged; make one with: unimixer store build",
    sqlite3.SQLITE_FULL: "the disk is full; nothing was written",
    sqlite3.SQLITE_READONLY: "the file is read-only",
}
_HOT = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""First bytes of a journal that SQLite would roll back; a journal that is not synced yet begins with zeros."""
_DATABASE = b"SQLite format 3\x00"
# offsets in the header of a database; a journal holds the same header in its copy of the first page
_COUNTER, _SCHEMA_COOKIE, _MARK, _COUNTED, _HEADER = 24, 40, 60, 92, 100


def create(path: Path, script: str) -> None:
    """Create a new database.

    The change counter, by which SQLite detects outdated pages in memory, and the mark of the file start at random
    numbers. So a file that is copied over another one is detected, and a journal can be matched to its file.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    with closing(connection):
        connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {secrets.randbits(31)}")
    counter, cookie = (secrets.randbits(31).to_bytes(4, "big") for _ in range(2))
    with path.open("r+b") as file:
        for offset, value in ((_COUNTER, counter), (_COUNTED, counter), (_SCHEMA_COOKIE, cookie)):
            file.seek(offset)
            file.write(value)


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open an existing file. Statements fail if it is locked: run them with :func:`retry_while_locked`."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        mode = retry_while_locked(lambda: connection.execute("PRAGMA journal_mode").fetchone(), timeout)
        if mode == ("wal",):  # written by an earlier version
            retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = DELETE"), timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def retry_while_locked(work: Callable[[], Result], timeout: float) -> Result:
    """Retry work until it gets the lock; SQLite's own retries are too rare for readers of a file with a busy writer."""
    end = time.monotonic() + timeout
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(0.001)


def reason(error: sqlite3.Error) -> str:
    """Return the reason of an error in words."""
    return _REASONS.get(_code(error), str(error))


def mark(connection: sqlite3.Connection) -> None:
    """Write the first page first, so that the journal of this change begins with the mark of the file."""
    (value,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {value}")


def check_beside(path: Path, timeout: float = 0.0) -> None:
    """Check that no log or journal of another file has the name that SQLite looks for; wait for a running change.

    Raises:
        StoreUnavailableError: SQLite would apply the log or journal of another file.
    """
    end = time.monotonic() + timeout
    while (problem := _foreign(path)) is not None:
        if time.monotonic() >= end:
            raise StoreUnavailableError(problem)
        time.sleep(0.01)


def is_database(path: Path) -> bool:
    """Return whether a file starts like a SQLite database."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_DATABASE)) == _DATABASE


@contextmanager
def no_writer(path: Path, timeout: float) -> Iterator[None]:
    """Lock out writers while a file is replaced, so that none leaves half a change next to the new file.

    Raises:
        StoreUnavailableError: another process writes to the file.
    """
    with ExitStack() as stack:
        if is_database(path):
            try:
                connection = stack.enter_context(closing(connect(path, timeout)))
                retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"), timeout)
            except sqlite3.DatabaseError as error:
                if _code(error) == sqlite3.SQLITE_BUSY:  # a damaged or read-only file has no writer
                    raise StoreUnavailableError(
                        f"{path}: the feature store cannot be replaced now ({reason(error)})"
                    ) from error
        yield


def _foreign(path: Path) -> str | None:
    """Describe the log or journal of another file next to ``path``, if there is one."""
    path = path.resolve()  # SQLite follows links, too
    log, journal = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    with suppress(FileNotFoundError):
        if log.stat().st_size:
            return (
                f"{log}: holds changes that may belong to another file; if they are of {path.name}, merge them with: "
                f"sqlite3 {path} 'PRAGMA journal_mode = DELETE', otherwise remove it"
            )
    with suppress(FileNotFoundError):
        if not _belongs(journal, path):
            return (
                f"{journal}: holds half a change of another file that had the name {path.name}; move it next to that "
                "file under the matching name, or remove it"
            )
    return None


def _belongs(journal: Path, path: Path) -> bool:
    """Return whether a journal is inactive or matches this file: the same mark, at most one change earlier."""
    with journal.open("rb") as file:
        head = file.read(28)
        if head[:8] != _HOT:
            return True
        file.seek(int.from_bytes(head[20:24], "big"))
        page, first = file.read(4), file.read(_HEADER)
    if page != b"\0\0\0\1" or not path.exists():
        return False
    with path.open("rb") as file:
        now = file.read(_HEADER)
    changes = (_number(now, _COUNTER) - _number(first, _COUNTER)) % 2**32
    return _number(now, _MARK) == _number(first, _MARK) and changes <= 1


def _number(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 4], "big")


def _code(error: sqlite3.Error) -> int:
    """Return the primary error code; errors of the Python module have none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
