"""A PostgreSQL database: its address without the password, a connection that ends in time, one sentence an error."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from unimixer.errors import MissingExtraError, UnimixerError

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql://", "postgres://")
CONNECT_S = 5
STATEMENT_S = 30.0
"""Seconds after which the server gives up a statement."""
SLACK_S = 5.0
"""Seconds after that in which it must have said so."""
_LIMITS = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "unimixer",
}
"""A database whose machine has vanished is noticed within about ten seconds; the address may say otherwise."""


class DatabaseError(UnimixerError):
    """The database cannot be used now; a later try may succeed."""


@dataclass(frozen=True)
class Address:
    """Where a table is.

    Attributes:
        name: the address without the password, for messages.
        table: name of the table, in parts where it has a schema.
        values: parameters of libpq; the password is one of them.
    """

    name: str
    table: tuple[str, ...]
    values: dict[str, Any] = field(repr=False)


def is_address(place: str | Path) -> bool:
    """Whether a place is a PostgreSQL database, and not a folder."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def driver(task: str) -> Any:
    """The module ``psycopg``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError(task, "serve") from None
    # it warns about connections that it could not end in order; whoever uses it reports the error itself
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    return psycopg


def parse_address(text: str, *, table: str, task: str) -> Address:
    """Read ``postgresql://user@host:port/db?table=NAME``; all but ``table`` is libpq's.

    Args:
        text: the address.
        table: name of the table where the address has none.
        task: what the database is for.

    Raises:
        UnimixerError: it is no address. The message repeats nothing of it, as nobody knows which part is the password.
    """
    psycopg = driver(task)
    base, _, query = text.partition("?")
    options = [option for option in query.split("&") if option]
    named = [unquote(option.partition("=")[2]) for option in options if option.startswith("table=")]
    rest = "&".join(option for option in options if not option.startswith("table="))
    try:
        values = psycopg.conninfo.conninfo_to_dict(f"{base}?{rest}" if rest else base)
    except psycopg.ProgrammingError:
        values = {"port": "none"}
    port, database = str(values.get("port", "")), str(values.get("dbname", ""))
    parts = tuple((named[-1] if named else table).split("."))
    misread = "@" in database + str(values.get("host", "")) or (port and not port.replace(",", "").isdecimal())
    if misread or not all(parts) or len(parts) > 2:
        raise UnimixerError(
            f"{task}: not an address of PostgreSQL; use postgresql://user@host:port/db?table=NAME, with the password "
            "in ~/.pgpass or PGPASSWORD, or percent-encoded in the address"
        )
    return Address(_name(values, named), parts, values)


def connect(address: Address, module: Any) -> psycopg.Connection[Any]:
    """A connection in which every statement is a transaction, unless a block says otherwise.

    Args:
        address: of the database.
        module: what :func:`driver` gave.

    Raises:
        DatabaseError: the database refuses or is not there.
        UnimixerError: its encoding is not UTF-8.
    """
    try:
        connection: psycopg.Connection[Any] = module.connect(
            **{**_LIMITS, **address.values, "client_encoding": "UTF8"}, autocommit=True, prepare_threshold=None
        )
    except module.Error as error:
        raise DatabaseError(f"{address.name}: the database cannot be used now ({sentence(error, address)})") from None
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise UnimixerError(f"{address.name}: the encoding of the database is {encoding}, expected UTF8")
    return connection


def limit_statements(connection: psycopg.Connection[Any]) -> None:
    """Let the statements of this transaction end in time; of this one alone, as poolers share sessions."""
    connection.execute(f"SET LOCAL statement_timeout = {int(STATEMENT_S * 1000)}")


@contextmanager
def watched(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cut the connection where the statements inside take longer than the server should let them.

    The server ends its statements by itself, and the network ends a connection to a machine that is gone; this is for a
    server that stands still on a machine that runs.
    """
    with socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(STATEMENT_S + SLACK_S, _cut, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _cut(line: socket) -> None:
    with suppress(OSError):
        line.shutdown(SHUT_RDWR)


def sentence(error: Exception, address: Address) -> str:
    """What the database said, in one line, without a password; where it may quote rows, only the kind of the error."""
    state = getattr(error, "sqlstate", None) or ""
    if state[:2] in ("22", "23", "54"):
        return type(error).__name__
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    text = " ".join(str(primary or error).split()).partition(" Is the server running")[0].rstrip(".")
    password = address.values.get("password")
    return text.replace(str(password), "***") if password else text


def _name(values: dict[str, Any], table: list[str]) -> str:
    host, port = str(values.get("host", "")), str(values.get("port", ""))
    user = quote(str(values["user"]), safe="") + "@" if "user" in values else ""
    place = "" if "/" in host else host + (f":{port}" if port else "")
    options = [f"host={host}", *([f"port={port}"] if port else [])] if "/" in host else []
    options += [f"table={name}" for name in table[-1:]]
    database = quote(str(values.get("dbname", "")), safe="")
    return f"postgresql://{user}{place}/{database}" + ("?" + "&".join(options) if options else "")
