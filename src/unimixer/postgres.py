"""Connect to PostgreSQL: parse the address, bound the time of statements, and hide the password in messages."""

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
"""Seconds after which the server cancels a statement."""
SLACK_S = 5.0
"""Additional seconds in which the server must report the cancellation."""
_LIMITS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "unimixer",
}
"""Options that detect an unreachable machine within about ten seconds; the address may override them."""


class DatabaseError(UnimixerError):
    """Signal that the database cannot be used now; a later try may succeed."""


@dataclass(frozen=True)
class Address:
    """Hold the address of a table.

    Attributes:
        name: address without the password, for messages.
        table: name of the table, preceded by its schema if there is one.
        values: parameters of libpq, including the password.
    """

    name: str
    table: tuple[str, ...]
    values: dict[str, Any] = field(repr=False)


def is_address(place: str | Path) -> bool:
    """Return whether a place is the address of a PostgreSQL database."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def driver(task: str) -> Any:
    """Import the module ``psycopg``; ``task`` names its use in the error.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError(task, "serve") from None
    # silence its warnings about broken connections: our callers report these errors
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    return psycopg


def parse_address(text: str, *, table: str, task: str) -> Address:
    """Parse ``postgresql://user@host:port/db?table=NAME``; libpq reads everything but ``table``.

    Args:
        text: address.
        table: default name of the table.
        task: use of the database, for messages.

    Raises:
        UnimixerError: the address is invalid. The message does not repeat it, because any part may be the password.
    """
    psycopg = driver(task)
    base, _, query = text.partition("?")
    options = [option for option in query.split("&") if option]
    tables = [unquote(option.partition("=")[2]) for option in options if option.startswith("table=")]
    rest = "&".join(option for option in options if not option.startswith("table="))
    try:
        values = psycopg.conninfo.conninfo_to_dict(f"{base}?{rest}" if rest else base)
    except psycopg.ProgrammingError:
        values = {"port": "none"}
    port, database = str(values.get("port", "")), str(values.get("dbname", ""))
    parts = tuple((tables[-1] if tables else table).split("."))
    misread = "@" in database + str(values.get("host", "")) or (port and not port.replace(",", "").isdecimal())
    if misread or not all(parts) or len(parts) > 2:
        raise UnimixerError(
            f"{task}: not an address of PostgreSQL; use postgresql://user@host:port/db?table=NAME, with the password "
            "in ~/.pgpass or PGPASSWORD, or percent-encoded in the address"
        )
    return Address(_name(values, tables), parts, values)


def connect(address: Address, module: Any, *, seconds: int = CONNECT_S) -> psycopg.Connection[Any]:
    """Open a connection in which every statement is a transaction, except inside a ``transaction()`` block.

    Args:
        address: address of the database.
        module: result of :func:`driver`.
        seconds: for the connection to open; the address may override them.

    Raises:
        DatabaseError: the database refuses the connection or cannot be reached.
        UnimixerError: the encoding of the database is not UTF-8.
    """
    try:
        connection: psycopg.Connection[Any] = module.connect(
            **{**_LIMITS, "connect_timeout": seconds, **address.values, "client_encoding": "UTF8"},
            autocommit=True,
            prepare_threshold=None,
        )
    except module.Error as error:
        raise DatabaseError(f"{address.name}: the database cannot be used now ({sentence(error, address)})") from None
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise UnimixerError(f"{address.name}: the encoding of the database is {encoding}, expected UTF8")
    return connection


def limit_statements(connection: psycopg.Connection[Any], seconds: float | None = None) -> None:
    """Limit the time of statements in the current transaction only, because connection poolers share sessions."""
    connection.execute(f"SET LOCAL statement_timeout = {int((seconds or STATEMENT_S) * 1000)}")


@contextmanager
def watched(connection: psycopg.Connection[Any], seconds: float | None = None) -> Iterator[None]:
    """Cut the connection if the statements inside exceed the time that the server allows.

    The server cancels long statements, and the network detects an unreachable machine. This timer covers a server
    process that hangs on a machine that still answers.
    """
    with socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer((seconds or STATEMENT_S) + SLACK_S, _cut, [line])
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
    """Return the message of a database error in one line without the password; only its type if it may quote rows."""
    state = getattr(error, "sqlstate", None) or ""
    if state[:2] in ("22", "23", "54"):
        return type(error).__name__
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    text = " ".join(str(primary or error).split()).partition(" Is the server running")[0].rstrip(".")
    password = address.values.get("password")
    return text.replace(str(password), "***") if password else text


def _name(values: dict[str, Any], tables: list[str]) -> str:
    host, port = str(values.get("host", "")), str(values.get("port", ""))
    user = quote(str(values["user"]), safe="") + "@" if "user" in values else ""
    server = "" if "/" in host else host + (f":{port}" if port else "")
    options = [f"host={host}", *([f"port={port}"] if port else [])] if "/" in host else []
    options += [f"table={name}" for name in tables[-1:]]
    database = quote(str(values.get("dbname", "")), safe="")
    return f"postgresql://{user}{server}/{database}" + ("?" + "&".join(options) if options else "")
