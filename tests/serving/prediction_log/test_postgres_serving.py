"""A real server whose prediction log is a real PostgreSQL: stopped, killed, serving while the database is away."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from database import PASSWORD, Database
from load import Load
from served import CONTEXT, Served

from unimixer.cli import main
from unimixer.serving.prediction_log.writer import read_log
from unimixer.training.run import RunFolder


def test_an_orderly_stop_loses_no_answer_and_the_replay_reads_the_table(
    bundles: tuple[Path, Path],
    features: Path,
    toy_run: RunFolder,
    log_address: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Served(bundles[0], features, "--prediction-log", log_address, "--flush", "60") as served:
        load = Load(served)
        load.wait_for(lambda: len(load.answers) > 100)
        client = served.client()
        odd = client.rank("nul \0 user", ["i1", "\0", "␀"], context={**CONTEXT, "tab": "\0␀0"})
        assert odd.status == 200
        client.close()
        assert served.stop() == 0
        load.stop()
    answered = {request_id for status, _, request_id in load.answers if status == 200} | {odd.headers["X-Request-ID"]}
    written = [row["request_id"] for row in read_log(log_address)]
    assert len(written) == len(set(written))
    assert set(written) == answered
    assert served.logged("prediction log")[0]["place"].startswith("postgresql://tester@127.0.0.1:")
    for text in (json.dumps(served.lines), "".join(served.other)):
        assert PASSWORD not in text
        assert log_address not in text
    with pytest.raises(SystemExit) as ended:
        main(["replay", log_address, "--store", str(features), "--run", str(toy_run.folder), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["differing_rows"], found["features"]) == (len(answered), 0, {})


def test_answers_wait_while_the_database_is_away(
    bundles: tuple[Path, Path], features: Path, database: Database
) -> None:
    address = database.address()
    options = ("--prediction-log", address, "--flush", "0.1", "--log-rows", "60", "--grace", "2")
    with Served(bundles[0], features, *options) as served:
        client = served.client()
        answered = [client.rank().headers["X-Request-ID"] for _ in range(20)]
        _wait(served, "unimixer_prediction_log_waiting", 0)
        database.stop()
        answered += [client.rank().headers["X-Request-ID"] for _ in range(60)]
        lost = [client.rank().headers["X-Request-ID"] for _ in range(7)]  # they are answered all the same
        _wait(served, "unimixer_prediction_log_up", 0)
        metrics = served.metrics()
        assert metrics["unimixer_prediction_log_waiting"] == 60
        assert metrics["unimixer_prediction_log_dropped_total"] == 7
        assert metrics["unimixer_prediction_log_errors_total"] >= 1
        assert metrics["unimixer_prediction_log_rows_total"] == 20
        database.start()
        _wait(served, "unimixer_prediction_log_waiting", 0)
        assert served.metrics()["unimixer_prediction_log_up"] == 1
        assert [row["request_id"] for row in read_log(address)] == answered
        assert not set(lost) & set(answered)
        database.stop()
        assert client.rank().status == 200
        client.close()
        assert served.stop() == 2  # the last answer could not be kept, and that is said
        database.start()
    assert "the prediction log lost 1 of its answers, which could not be written before the end" in "".join(
        served.other
    )
    for text in (json.dumps(served.lines), "".join(served.other)):
        assert PASSWORD not in text
        assert "Traceback" not in text
    assert served.logged("prediction log failed")


def _wait(served: Served, name: str, value: float) -> None:
    end = time.monotonic() + 30
    while served.metrics()[name] != value:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_database_that_is_down_at_the_start_is_one_sentence(
    bundles: tuple[Path, Path],
    toy_features: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    address = "postgresql://user:other-secret@127.0.0.1:1/db"
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(bundles[0]), "--port", "0", "--store", str(toy_features), "--prediction-log", address])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "error: postgresql://user@127.0.0.1:1/db: the database cannot be used now (connection failed:" in said
    assert said.count("\n") == 1
    assert "secret" not in said
    assert PASSWORD not in said
