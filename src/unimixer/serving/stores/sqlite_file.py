"""The file of a store in SQLite: made, opened, and kept apart from what other files left beside its name.

A store is one file, so it has a rollback journal and no write-ahead log: the log would be a part of the store that does
not move with the file. SQLite finds both by name, and reads what it finds into any file that takes the name. Without a
log, the file is whole between two changes. What stands beside it in the middle of one is checked before it is opened.
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
    sqlite3.SQLITE_NOTADB: "the file is no database of SQLite, or is damaged",
    sqlite3.SQLITE_FULL: "the disk is full; nothing was written",
    sqlite3.SQLITE_READONLY: "it cannot be written",
}
_HOT = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""How a journal begins that SQLite would write back; before it is on the disk, it begins with zeros."""
_DATABASE = b"SQLite format 3\x00"
# places in the header of a database, which are those in the image of its first page that a journal holds
_COUNTER, _SCHEMA_COOKIE, _MARK, _COUNTED, _HEADER = 24, 40, 60, 92, 100


def create(path: Path, script: str) -> None:
    """Make a new database.

    Its counter of changes, by which SQLite knows that pages in memory are out of date, and its mark begin with random
    numbers: a file that is copied over another one is noticed, and a journal tells of which file it is.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    with closing(connection):
        connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {secrets.randbits(31)}")
    counter, cookie = (secrets.randbits(31).to_bytes(4, "big") for _ in range(2))
    with path.open("r+b") as file:
        for place, value in ((_COUNTER, counter), (_COUNTED, counter), (_SCHEMA_COOKIE, cookie)):
            file.seek(place)
            file.write(value)


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """A connection to a file that exists; what it does fails where another one has the lock, see :func:`patiently`."""
    place = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(place, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        mode = patiently(lambda: connection.execute("PRAGMA journal_mode").fetchone(), patience)
        if mode == ("wal",):  # as earlier versions made it
            patiently(lambda: connection.execute("PRAGMA journal_mode = DELETE"), patience)
    except BaseException:
        connection.close()
        raise
    return connection


def patiently(work: Callable[[], Result], patience: float) -> Result:
    """Do what needs a lock as soon as it is free; SQLite itself looks too rarely for readers beside a busy writer."""
    end = time.monotonic() + patience
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(0.001)


def reason(error: sqlite3.Error) -> str:
    """Why SQLite refuses, in words."""
    return _REASONS.get(_code(error), str(error))


def mark(connection: sqlite3.Connection) -> None:
    """Begin a change with the first page, so that its journal begins with the mark of the file."""
    (value,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {value}")


def check_beside(path: Path, patience: float = 0.0) -> None:
    """Raise where SQLite would read what another file left into this one; a change that ends in time is waited for.

    Raises:
        StoreUnavailableError: a log or a journal of another file.
    """
    end = time.monotonic() + patience
    while (found := _foreign(path)) is not None:
        if time.monotonic() >= end:
            raise StoreUnavailableError(found)
        time.sleep(0.01)


def is_database(path: Path) -> bool:
    """Whether a file begins as a database of SQLite does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_DATABASE)) == _DATABASE


@contextmanager
def no_writer(path: Path, patience: float) -> Iterator[None]:
    """Keep writers out of a file that loses its name, so that none of them leaves half a change beside the next one.

    Raises:
        StoreUnavailableError: somebody writes to it.
    """
    with ExitStack() as held:
        if is_database(path):
            try:
                connection = held.enter_context(closing(connect(path, patience)))
                patiently(lambda: connection.execute("BEGIN IMMEDIATE"), patience)
            except sqlite3.DatabaseError as error:
                if _code(error) == sqlite3.SQLITE_BUSY:  # nobody writes to what is damaged or read-only
                    raise StoreUnavailableError(f"{path}: cannot be replaced now ({reason(error)})") from error
        yield


def _foreign(path: Path) -> str | None:
    path = path.resolve()  # what a link names is what SQLite looks beside
    log, journal = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    with suppress(FileNotFoundError):
        if log.stat().st_size:
            return (
                f"{log}: holds changes that may be of another file; if it belongs to {path.name}, merge it with: "
                f"sqlite3 {path} 'PRAGMA journal_mode = DELETE', else remove it"
            )
    with suppress(FileNotFoundError):
        if not _belongs(journal, path):
            return (
                f"{journal}: holds half a change of another file that had the name {path.name}; put it beside that "
                "file under its name, or remove it"
            )
    return None


def _belongs(journal: Path, path: Path) -> bool:
    """Whether a journal would change nothing, or is of this file: the same mark, and at most one change ago."""
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


def _number(header: bytes, place: int) -> int:
    return int.from_bytes(header[place : place + 4], "big")


def _code(error: sqlite3.Error) -> int:
    """The kind of an error, without its variety; errors of the module itself have none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
