"""The table of the score log in PostgreSQL: one row an answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from unimixer.errors import UnimixerError
from unimixer.serving.prediction_log.postgres import Address, limit_statements

if TYPE_CHECKING:
    import psycopg

TABLE = "score_log"
VERSION = 1
COLUMNS = {
    "writer": "uuid NOT NULL",
    "number": "bigint NOT NULL",
    "request_id": "text NOT NULL",
    "answered_at": "timestamp with time zone NOT NULL",
    "time_ms": "bigint NOT NULL",
    "model_version": "text NOT NULL",
    "user_id": "text",
    "user_revision": "bigint NOT NULL",
    "call": "jsonb NOT NULL",
    "items": "text[] NOT NULL",
    "item_revisions": "bigint[] NOT NULL",
    "tasks": "text[] NOT NULL",
    "scores": "real[] NOT NULL",
    "fields": "text[] NOT NULL",
    "hashes": "bigint[] NOT NULL",
}
"""``user`` is a reserved word, hence ``user_id``. ``scores`` has a row a task. ``hashes`` are the 64 bits of unsigned
numbers as signed ones: they are only ever compared, and PostgreSQL has no unsigned type; numeric would be larger and
slower, and bytea could not stand beside ``fields`` element by element."""
INDEXES = ("answered_at", "user_id, answered_at", "request_id")
_KEY = "writer, number"
_FOUND = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


def identifier(address: Address, module: Any) -> str:
    """The quoted name of the table."""
    name: str = module.sql.Identifier(*address.table).as_string(None)
    return name


def ensure_table(connection: psycopg.Connection[Any], address: Address, table: str) -> None:
    """Make the table where it is absent.

    Raises:
        UnimixerError: there is one of other columns, or of another version.
        psycopg.Error: the database refuses.
    """
    with connection.transaction():
        limit_statements(connection)
        # servers that start at once: one makes the table, the others wait and find it
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", ["unimixer " + table])
        if not _columns(connection, table):
            lines = [f"{name} {kind}" for name, kind in COLUMNS.items()]
            connection.execute(f"CREATE TABLE {table} ({', '.join(lines)}, PRIMARY KEY ({_KEY}))")
            for columns in INDEXES:
                connection.execute(f"CREATE INDEX ON {table} ({columns})")
            connection.execute(f"COMMENT ON TABLE {table} IS 'unimixer score log, version {VERSION}'")
    check_table(connection, address, table)


def check_table(connection: psycopg.Connection[Any], address: Address, table: str) -> None:
    """Raise where the table is not one of this version; columns that someone added are none of our business.

    Raises:
        UnimixerError: a column is missing, has another type, or was added and must be filled.
    """
    found = _columns(connection, table)
    if not found:
        raise UnimixerError(f"{address.name}: no score log; there is no table {table}")
    wrong = ""
    for name, kind in COLUMNS.items():
        expected = kind.removesuffix(" NOT NULL")
        if name not in found:
            wrong = wrong or f"column {name!r} is missing"
        elif found[name][0] != expected:
            wrong = wrong or f"column {name!r} is {found[name][0]}, expected {expected}"
    for name, (_, must_be_given) in found.items():
        if must_be_given and name not in COLUMNS:
            wrong = wrong or f"column {name!r} is unknown and has no default"
    version = _version(connection, table)
    if version not in (None, VERSION):
        wrong = f"it has version {version}, this program writes and reads {VERSION}"
    if wrong:
        raise UnimixerError(
            f"{address.name}: table {table} is not a score log of this version: {wrong}; rename it, or name another "
            "table with ?table=NAME"
        )


def _columns(connection: psycopg.Connection[Any], table: str) -> dict[str, tuple[str, bool]]:
    return {name: (kind, given) for name, kind, given in connection.execute(_FOUND, [table])}


def _version(connection: psycopg.Connection[Any], table: str) -> int | None:
    row = connection.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [table]).fetchone()
    found = re.search(r"score log, version (\d+)", (row and row[0]) or "")
    return int(found[1]) if found else None
