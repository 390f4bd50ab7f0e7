"""The prediction log in PostgreSQL: its table, its failures, and how often an answer stands there (once)."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import pytest
from answer_cases import answer
from database import PASSWORD, Database, Wire

from unimixer.errors import UnimixerError
from unimixer.serving.prediction_log.writer import PredictionLog, answer_time, open_sink, read_log


def table_of(address: str) -> str:
    return address.partition("?table=")[2]


def until(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_table_is_made_for_analysis(log_address: str, shared_database: Database) -> None:
    log = PredictionLog(open_sink(log_address), flush=60, max_rows=10)
    log.add(answer())
    log.close()
    table, ask = table_of(log_address), shared_database.ask
    indexes = {definition.partition("USING btree ")[2] for (definition,) in
               ask(f"SELECT indexdef FROM pg_indexes WHERE tablename = '{table}'")}  # fmt: skip
    assert indexes == {"(writer, number)", "(answered_at)", "(user_id, answered_at)", "(request_id)"}
    assert ask(f"SELECT obj_description('{table}'::regclass)") == [("unimixer prediction log, version 1",)]
    rows = ask(
        f"""SELECT request_id, item, score FROM {table},
        unnest(items, scores[array_position(tasks, 'like'):array_position(tasks, 'like')]) AS candidate(item, score)"""
    )
    assert [row[:2] for row in rows] == [("r0", item) for item in answer().items]
    np.testing.assert_array_equal(np.asarray([row[2] for row in rows], np.float32), answer().scores[:, 1])
    assert ask(f"SELECT call->'context'->>'tab', (call->'context'->>'position')::real FROM {table}") == [("home", 3.0)]
    assert ask(f"SELECT extract(epoch FROM answered_at)::text FROM {table}") == [("1700000000.123000",)]


def test_the_queries_of_the_guide_run(shared_database: Database) -> None:
    log = PredictionLog(open_sink(shared_database.address("prediction_log")), flush=60, max_rows=10)
    for number in range(3):
        log.add(answer(number, answered_ms=answer_time()))
    log.close()
    guide = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    candidates, versions, lost = (shared_database.ask(query) for query in re.findall(r"```sql\n(.*?)```", guide, re.S))
    assert [(row[0], row[2], row[4], row[6]) for row in candidates] == [
        (f"r{number}", "u3", item, position)
        for number in range(3)
        for position, item in enumerate([answer().items[n] for n in (2, 1, 0)], 1)
    ]
    assert [row[:3] for row in versions] == [("v1", "home", 9)]
    assert [row[1] for row in lost] == [0]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_write_whose_end_was_not_seen_is_neither_lost_nor_written_twice(
    cut: str, log_address: str, shared_database: Database
) -> None:
    wire = Wire(shared_database.port)
    options = "&sslmode=disable&gssencmode=disable"  # the wire looks for the word COMMIT
    failures: list[str] = []
    address = shared_database.address(table_of(log_address), port=wire.port) + options
    log = PredictionLog(open_sink(address), flush=60, max_rows=100, failed=failures.append)
    log.add(answer(0))
    log.flush()
    for number in range(1, 6):
        log.add(answer(number))
    wire.cut = cut
    with pytest.raises(UnimixerError, match="the database cannot be used now") as refused:
        log.flush()
    assert PASSWORD not in str(refused.value)
    count = f"SELECT count(*)::int FROM {table_of(log_address)}"
    expected = [(6 if cut == "after" else 1,)]
    until(lambda: shared_database.ask(count) == expected)  # the cut was where the test wants it
    assert log.waiting == 5
    log.add(answer(6))
    log.flush()
    log.close()
    wire.close()
    assert [row["number"] for row in read_log(log_address)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_database_that_goes_away_and_comes_back_has_every_answer(database: Database) -> None:
    failures: list[str] = []
    counted: list[int] = []
    dropped: list[int] = []
    log = PredictionLog(open_sink(database.address()), flush=0.05, max_rows=200, written=counted.append,
                   failed=failures.append, dropped=dropped.append)  # fmt: skip
    for number in range(50):
        log.add(answer(number))
    until(lambda: log.waiting == 0)
    database.stop()
    for number in range(50, 100):
        log.add(answer(number))
    until(lambda: len(failures) >= 3)
    assert log.refused
    assert log.waiting == 50
    assert all("the database cannot be used now" in reason and PASSWORD not in reason for reason in failures)
    for number in range(100, 300):
        log.add(answer(number))
    assert (log.waiting, sum(dropped)) == (200, 50)
    database.start()
    until(lambda: log.waiting == 0)
    assert not log.refused
    log.add(answer(300))
    log.close()
    assert [row["number"] for row in read_log(database.address())] == [*range(250), 300]
    assert sum(counted) == 251


def test_many_servers_start_on_a_table_that_is_not_there(log_address: str) -> None:
    failures: list[Exception] = []

    def write(number: int) -> None:
        try:
            log = PredictionLog(open_sink(log_address), flush=60, max_rows=10)
            log.add(answer(number))
            log.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {row["request_id"] for row in read_log(log_address)} == {f"r{n}" for n in range(8)}


def test_a_table_that_is_dropped_while_serving_is_made_again(log_address: str, shared_database: Database) -> None:
    log = PredictionLog(open_sink(log_address), flush=60, max_rows=10)
    shared_database.ask(f"DROP TABLE {table_of(log_address)}")
    log.add(answer())
    with pytest.raises(UnimixerError, match=r"does not exist"):
        log.flush()
    log.close()
    assert [row["number"] for row in read_log(log_address)] == [0]


def test_an_answer_that_a_rule_of_the_table_refuses_is_named_and_left_out(
    log_address: str, shared_database: Database
) -> None:
    rejected: list[tuple[str, str]] = []
    log = PredictionLog(open_sink(log_address), flush=60, max_rows=10,
                   rejected=lambda request_id, why: rejected.append((request_id, why)))  # fmt: skip
    shared_database.ask(f"ALTER TABLE {table_of(log_address)} ADD CHECK (user_id <> 'secret')")
    shared_database.ask(f"CREATE UNIQUE INDEX ON {table_of(log_address)} (request_id)")
    for number in range(5):
        log.add(answer(number, user="secret" if number == 2 else "u"))
    log.add(answer(0))
    log.close()
    assert [row["number"] for row in read_log(log_address)] == [0, 1, 3, 4]
    assert [request_id for request_id, _ in rejected] == ["r2", "r0"]
    assert rejected[0][1].endswith("the database cannot hold an answer (CheckViolation)")
    assert rejected[1][1].endswith("the database cannot hold an answer (UniqueViolation)")


def test_answers_wait_while_the_table_has_other_columns(log_address: str, shared_database: Database) -> None:
    rejected: list[str] = []
    log = PredictionLog(
        open_sink(log_address), flush=60, max_rows=10, rejected=lambda request_id, why: rejected.append(why)
    )
    shared_database.ask(f"ALTER TABLE {table_of(log_address)} ALTER user_revision TYPE integer")
    log.add(answer())
    for _ in range(2):
        with pytest.raises(UnimixerError, match="column 'user_revision' is integer, expected bigint"):
            log.flush()
    shared_database.ask(f"ALTER TABLE {table_of(log_address)} ALTER user_revision TYPE bigint")
    log.close()
    assert rejected == []
    assert [row["number"] for row in read_log(log_address)] == [0]


def test_columns_that_someone_added_do_no_harm(log_address: str, shared_database: Database) -> None:
    open_sink(log_address).close()
    shared_database.ask(f"ALTER TABLE {table_of(log_address)} ADD at timestamptz NOT NULL DEFAULT now(), ADD arm text")
    log = PredictionLog(open_sink(log_address), flush=60, max_rows=10)
    log.add(answer())
    log.close()
    assert [row["number"] for row in read_log(log_address)] == [0]


def test_statements_of_a_write_end_in_time(
    log_address: str, shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(open_sink(log_address), flush=60, max_rows=10)
    monkeypatch.setattr("unimixer.postgres.STATEMENT_S", 0.3)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        import psycopg

        with psycopg.connect(shared_database.address()) as connection:
            connection.execute(f"LOCK TABLE {table_of(log_address)}".encode())
            locked.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(20)
    log.add(answer())
    with pytest.raises(UnimixerError, match="canceling statement due to statement timeout"):
        log.flush()
    done.set()
    holder.join()
    log.close()
    assert [row["number"] for row in read_log(log_address)] == [0]


@pytest.fixture
def frozen(log_address: str, shared_database: Database) -> Iterator[PredictionLog]:
    """A log whose part of the database stands still: its machine answers, it does not."""
    name = f"frozen {uuid4().hex}"  # the connection of another test may end later than the test
    log = PredictionLog(open_sink(f"{log_address}&application_name={quote(name)}"), flush=60, max_rows=10, patience=0.5)
    log.add(answer(0))
    log.flush()
    ((pid,),) = shared_database.ask(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'")
    os.kill(pid, signal.SIGSTOP)
    yield log
    os.kill(pid, signal.SIGCONT)
    log._thread.join(20)


def test_a_database_that_stands_still_is_given_up(
    frozen: PredictionLog, log_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimixer.postgres.STATEMENT_S", 0.2)
    monkeypatch.setattr("unimixer.postgres.SLACK_S", 0.2)
    frozen.add(answer(1))
    with pytest.raises(UnimixerError, match="the database cannot be used now"):
        frozen.flush()
    frozen.close()  # over another connection
    assert [row["number"] for row in read_log(log_address)] == [0, 1]


def test_an_end_does_not_wait_for_a_database_that_stands_still(frozen: PredictionLog) -> None:
    frozen.add(answer(1))
    started = time.monotonic()
    with pytest.raises(UnimixerError, match=r"lost 1 of its answers, .* \(it does not answer\)"):
        frozen.close()
    assert 0.5 <= time.monotonic() - started < 10
