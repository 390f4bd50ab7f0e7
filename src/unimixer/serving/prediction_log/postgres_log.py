"""Write and read a prediction log in a table of PostgreSQL."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from unimixer.errors import UnimixerError
from unimixer.postgres import (
    DatabaseError,
    connect,
    driver,
    limit_statements,
    parse_address,
    sentence,
    watched,
)
from unimixer.serving.prediction_log.postgres_table import (
    COLUMNS,
    HEADER,
    TABLE,
    TRAILER,
    check_table,
    ensure_table,
    identifier,
    read_call,
    restore,
    row_bytes,
)
from unimixer.serving.prediction_log.record import Entry, LogSink, PredictionRecord, UnfitError

if TYPE_CHECKING:
    import psycopg

TASK = "a prediction log in PostgreSQL"
_FETCH_SIZE = 256
"""Rows that a reader fetches at once."""
_READ = """
SELECT writer::text AS writer, number, request_id,
    round(extract(epoch FROM answered_at) * 1000)::bigint AS answered_ms, time_ms, model_version,
    user_id, user_revision, call::text AS call, items, item_revisions, tasks, scores, fields, hashes
FROM {table} ORDER BY answered_at, writer, number
"""


class PostgresSink(LogSink[PredictionRecord]):
    """Write answers, one transaction per call. A retry first asks the table which answers it already has.

    Args:
        address: ``postgresql://user@host:port/db``; ``?table=NAME`` or ``?table=SCHEMA.NAME`` replaces the default,
            ``prediction_log``.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._driver = driver(TASK)
        self._address = parse_address(address, table=TABLE, task=TASK)
        self.name, self._table = self._address.name, identifier(self._address, self._driver)
        self._connection: psycopg.Connection[Any] | None = None
        with self._talking():
            pass

    def write(self, entries: Sequence[Entry[PredictionRecord]]) -> None:
        """See :meth:`LogSink.write`."""
        try:
            rows = {e.number: row_bytes(self.writer, e) for piece in self.pieces(entries) for e in piece}
        except (ValueError, TypeError, struct.error) as error:
            raise UnfitError(f"{self.name}: an answer does not fit the columns ({type(error).__name__})") from None
        with self._talking() as connection, watched(connection), connection.transaction():
            limit_statements(connection)
            for number in self._written(connection, min(rows), max(rows)):
                rows.pop(number, None)
            if not rows:
                return
            command = f"COPY {self._table} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
            with connection.cursor() as cursor, cursor.copy(command) as copy:
                copy.write(HEADER)
                for row in rows.values():
                    copy.write(row)
                copy.write(TRAILER)

    def close(self) -> None:
        """See :meth:`LogSink.close`."""
        if self._connection is not None:
            with suppress(self._driver.Error):
                self._connection.close()
            self._connection = None

    def _written(self, connection: psycopg.Connection[Any], first: int, last: int) -> list[int]:
        """Return the numbers of answers that the table already has, from a write whose success was not reported."""
        query = f"SELECT number FROM {self._table} WHERE writer = %s AND number BETWEEN %s AND %s"
        return [number for (number,) in connection.execute(query, [self.writer, first, last])]

    @contextmanager
    def _talking(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield the connection, reopened after an error, and turn errors of the database into one sentence."""
        try:
            if self._connection is None:
                self._connection = connect(self._address, self._driver)
                ensure_table(self._connection, self._address, self._table)
            try:
                yield self._connection
            except self._driver.Error as error:
                if not self._unfit(error):
                    raise
                # if the columns of the table were changed, this raises and the answers wait
                check_table(self._connection, self._address, self._table)
                reason = sentence(error, self._address)
                raise UnfitError(f"{self.name}: the database cannot hold an answer ({reason})") from None
        except self._driver.Error as error:
            self.close()
            reason = sentence(error, self._address)
            raise DatabaseError(f"{self.name}: the database cannot be used now ({reason})") from None
        except UnfitError:
            raise
        except UnimixerError:
            self.close()
            raise

    def _unfit(self, error: psycopg.Error) -> bool:
        """Return whether an error is caused by the answers and not by the database."""
        errors = self._driver.errors
        if isinstance(error, errors.UniqueViolation):
            # the primary key occurs twice if an earlier write ended after the query; the next try sees its rows
            return not (error.diag.constraint_name or "").endswith("_pkey")
        return isinstance(error, (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded))


def read_table(text: str) -> Iterator[dict[str, Any]]:
    """See :func:`unimixer.serving.prediction_log.writer.read_log`."""
    module = driver(TASK)
    address = parse_address(text, table=TABLE, task=TASK)
    table = identifier(address, module)
    connection = connect(address, module)
    try:
        check_table(connection, address, table)
        with connection.transaction(), connection.cursor("prediction_log", row_factory=module.rows.dict_row) as cursor:
            cursor.itersize = _FETCH_SIZE
            cursor.execute(_READ.format(table=table), binary=True)
            for row in cursor:
                yield _row(row)
    except module.Error as error:
        raise DatabaseError(f"{address.name}: the prediction log cannot be read ({sentence(error, address)})") from None
    finally:
        connection.close()


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row to the form of the parts of a folder."""
    user = row.pop("user_id")
    for name in ("tasks", "fields"):
        row[name] = [restore(text) for text in row[name]]
    return {
        **row,
        "request_id": restore(row["request_id"]),
        "model_version": restore(row["model_version"]),
        "user": None if user is None else restore(user),
        "call": read_call(row["call"]),
        "items": [None if item is None else restore(item) for item in row["items"]],
        "hashes": [number % 2**64 for number in row["hashes"]],
    }
