"""Places of a prediction log in PostgreSQL that are refused in one sentence, and addresses without their password."""

from __future__ import annotations

import sys

import pytest
from database import PASSWORD, Database
from test_postgres_log import table_of

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.postgres import parse_address
from unimixer.serving.prediction_log.postgres_log import PostgresSink
from unimixer.serving.prediction_log.writer import open_sink, read_log


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("DROP COLUMN scores", "column 'scores' is missing"),
        ("ALTER COLUMN call TYPE text", "column 'call' is text, expected jsonb"),
        ("ALTER COLUMN hashes TYPE numeric[]", r"column 'hashes' is numeric\[\], expected bigint\[\]"),
        ("ADD COLUMN arm text NOT NULL", "column 'arm' is unknown and has no default"),
        ("2", "it has version 2, this program writes and reads 1"),
    ],
)
def test_a_table_of_other_columns_is_refused(
    change: str, wrong: str, log_address: str, shared_database: Database
) -> None:
    open_sink(log_address).close()
    table = table_of(log_address)
    command = f"COMMENT ON TABLE {table} IS 'unimixer prediction log, version 2'" if change == "2" else ""
    shared_database.ask(command or f"ALTER TABLE {table} {change}")
    rule = f"is not a prediction log of this version: {wrong}; rename it, or name another"
    sentence = f"/postgres.table={table}: table .* {rule}"
    for use in (open_sink, lambda place: list(read_log(place))):
        with pytest.raises(UnimixerError, match=sentence) as refused:
            use(log_address)
        assert PASSWORD not in str(refused.value)


def test_a_place_that_cannot_be_used_is_one_sentence(log_address: str, shared_database: Database) -> None:
    database = shared_database
    for address, said in (
        (database.address(port=1), "postgresql://tester@127.0.0.1:1/postgres: the database cannot be used now"),
        (database.address(password="wr0ng-secret"), 'password authentication failed for user "tester"'),
        (database.address("nowhere.log"), 'schema "nowhere" does not exist'),
        (database.address().replace("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
    ):
        with pytest.raises(UnimixerError) as refused:
            open_sink(address)
        text = str(refused.value)
        assert said in text
        assert "\n" not in text
        assert "secret" not in text
        assert PASSWORD not in text
    with pytest.raises(UnimixerError, match=f'no prediction log; there is no table "{table_of(log_address)}"'):
        list(read_log(log_address))


def test_a_database_of_another_encoding_is_refused(shared_database: Database) -> None:
    shared_database.ask("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(UnimixerError, match="the encoding of the database is LATIN1, expected UTF8"):
        open_sink(shared_database.address().replace("/postgres", "/latin"))


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:sec/ret@host/db",
        "postgresql://user:sec@ret@host/db",
        "postgresql://user:secret@host:12x/db",
        "postgresql://user:secret@host/db?unknown=1",
        "postgresql://user:secret%zz@host/db",
        "postgresql://user:secret@host/db?table=a.b.c",
        "postgresql://user:secret@host/db?table=",
    ],
)
def test_what_is_no_address_is_refused_without_a_part_of_it(address: str) -> None:
    with pytest.raises(
        UnimixerError, match="a prediction log in PostgreSQL: not an address of PostgreSQL; use"
    ) as refused:
        open_sink(address)
    assert "ret" not in str(refused.value).replace("PostgreSQL", "")


def test_the_name_of_an_address_has_no_password() -> None:
    for address, name in (
        ("postgresql://u:secret@h:5433/db?table=a.b", "postgresql://u@h:5433/db?table=a.b"),
        ("postgres://u@h/db?password=secret&sslmode=disable", "postgresql://u@h/db"),
        ("postgresql:///db?host=/run/pg&user=u&password=secret", "postgresql://u@/db?host=/run/pg"),
        ("postgresql://u:se%2Fcret@h1:1,h2:2/db", "postgresql://u@h1,h2:1,2/db"),
    ):
        found = parse_address(address, table="prediction_log", task="test")
        assert found.name == name
        assert "cret" not in repr(found)


def test_the_password_may_come_from_the_environment(
    log_address: str, shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shared_database.address(table_of(log_address), password="")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_sink(plain).close()
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(UnimixerError, match="no password supplied"):
        open_sink(plain)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    with pytest.raises(
        MissingExtraError, match=r"a prediction log in PostgreSQL needs .* pip install 'unimixer\[serve\]'"
    ):
        PostgresSink("postgresql://u@h/db")
