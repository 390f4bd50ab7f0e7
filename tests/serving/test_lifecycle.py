"""What a server does while it is changed, crowded and stopped."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from load import Load
from ports import free_port
from served import CONTEXT, Client, Served, next_answer
from toy import DAY, START, toy_tables

from unimixer.serving.prediction_log.writer import read_log
from unimixer.serving.server import _loop_factory
from unimixer.serving.stores import open_store
from unimixer.serving.stores.build import fill


def link(path: Path, bundle: Path) -> None:
    """Let a link name another bundle, at one moment."""
    fresh = path.with_name("fresh")
    fresh.symlink_to(bundle)
    fresh.rename(path)


def test_bundles_are_swapped_under_load_without_a_lost_request(
    bundles: tuple[Path, Path], features: Path, tmp_path: Path
) -> None:
    current = tmp_path / "current"
    link(current, bundles[0])
    with Served(current, features) as served:
        old = served.wait_for("ready")["model_version"]
        load = Load(served)
        load.wait_for(lambda: len(load.answers) > 20)
        link(current, bundles[1])
        answer = served.admin("reload")
        assert answer.status == 200
        new = answer.json["model_version"]
        assert new != old
        load.wait_for(lambda: load.answers[-1][1] == new)
        link(current, bundles[0])
        served.process.send_signal(signal.SIGHUP)
        assert served.wait_for("swapped")["model_version"] == old
        load.wait_for(lambda: load.answers[-1][1] == old)
        _refuse_damaged(served, current, bundles[1], tmp_path)
        load.stop()
        assert served.rank().json["model"]["version"] == old
        assert load.failures == []
        assert {status for status, _, _ in load.answers} == {200}
        assert {version for _, version, _ in load.answers} == {old, new}
        metrics = served.metrics()
        assert metrics['unimixer_swaps_total{result="in service"}'] == 3
        assert metrics['unimixer_swaps_total{result="refused"}'] == 2
        assert metrics[f'unimixer_model{{version="{old}"}}'] == 1
        assert f'unimixer_model{{version="{new}"}}' not in metrics


def _refuse_damaged(served: Served, current: Path, bundle: Path, tmp_path: Path) -> None:
    """A bundle that is not whole is not put in service."""
    bad = tmp_path / "bad"
    shutil.copytree(bundle, bad)
    graph = next(bad.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-10])
    link(current, bad)
    answer = served.admin("reload")
    assert answer.status == 422
    assert "truncated or changed" in answer.error
    served.process.send_signal(signal.SIGHUP)
    assert "truncated or changed" in served.wait_for("swap refused")["reason"]


def test_an_orderly_stop_loses_no_request_and_no_line_of_the_prediction_log(
    bundles: tuple[Path, Path], features: Path, tmp_path: Path
) -> None:
    with Served(bundles[0], features, "--prediction-log", str(tmp_path / "log"), "--flush", "60") as served:
        load = Load(served)
        load.wait_for(lambda: len(load.answers) > 100)
        assert served.stop() == 0
        load.stop()
    answered = {request_id for status, _, request_id in load.answers if status == 200}
    written = [row["request_id"] for row in read_log(tmp_path / "log")]
    assert len(written) == len(set(written))
    assert set(written) == answered
    # who came too late found a closed door, and not half an answer
    closed = (ConnectionError, http.client.RemoteDisconnected)
    assert all(isinstance(failure, closed) for failure in load.failures), load.failures
    assert all(path.name.startswith("scores-") for path in (tmp_path / "log").iterdir())


def test_a_killed_server_loses_at_most_the_last_flush_interval(
    bundles: tuple[Path, Path], features: Path, log_place: str
) -> None:
    flush = 0.5
    with Served(bundles[0], features, "--prediction-log", log_place, "--flush", str(flush)) as served:
        client, answered = served.client(), []
        end = time.monotonic() + 4 * flush
        while time.monotonic() < end:
            answered.append((time.time(), client.rank().headers["X-Request-ID"]))
            time.sleep(0.01)
        killed = time.time()
        served.stop(signal.SIGKILL)
        client.close()
    written = {row["request_id"] for row in read_log(log_place)}
    lost = [at for at, request_id in answered if request_id not in written]
    assert len(written) > 10
    assert all(at > killed - flush - 0.5 for at in lost)  # half a second for a machine that is busy


def test_changes_of_the_store_are_in_the_next_answer(bundles: tuple[Path, Path], features: Path) -> None:
    with Served(bundles[0], features) as served:
        client = served.client()
        context = {**CONTEXT, "time_ms": START + 20 * DAY}
        first = client.rank("u3", ["i1", "fresh"], context=context).json
        assert first["unknown"] == {"user": False, "items": 1}
        rows = [{"item_id": "fresh", "price": 5_000, "category": "c2", "picture": [1.0, 0.5, 0.0, 2.0]}]
        assert served.admin("items", {"rows": rows}).json["rows"] == 1
        second = client.rank("u3", ["i1", "fresh"], context=context).json
        assert second["unknown"]["items"] == 0
        assert second["scores"]["is_click"][0] == first["scores"]["is_click"][0]
        assert second["scores"]["is_click"][1] != first["scores"]["is_click"][1]
        events = [{"user_id": "u3", "item_id": f"i{n}", "time_ms": START + 19 * DAY, "is_click": 1} for n in range(5)]
        assert served.admin("events", {"events": events}).json == {"events": 5}
        third = client.rank("u3", ["i1", "fresh"], context=context).json
        assert third["scores"]["is_click"][0] != second["scores"]["is_click"][0]
        assert served.admin("users", {"rows": [{"user_id": "new", "age": 33}]}).status == 200
        assert client.rank("new").json["unknown"]["user"] is False
        _refuse_rows(served, client)
        _store_away_and_back(client, features)
        client.close()


def _refuse_rows(served: Served, client: Client) -> None:
    bad: list[tuple[str, Any, str]] = [
        ("items", {"rows": []}, "rows: expected a list of at least one object"),
        ("items", {"row": [{}]}, "the body: unknown field 'row'; did you mean 'rows'?"),
        ("items", {"rows": [{"item_id": "a", "prize": 3}]}, "items[0]: unknown column 'prize'; did you mean 'price'?"),
        ("items", {"rows": [{"price": 3}]}, "items, row 1: item_id is missing; every row needs its key"),
        ("items", {"rows": [{"item_id": "a"}, {"item_id": "a"}]}, "items, row 2: item_id='a' occurs twice"),
        ("items", {"rows": [{"item_id": "a", "price": "dear"}]}, "items, row 1: price='dear' is not a number"),
        ("items", {"rows": [{"item_id": "a", "picture": [1.0]}]}, "items, row 1: picture=[1.0] is not a vector"),
        (
            "items",
            {"rows": [{"item_id": "a", "price": 1}, {"item_id": "b", "price": [1]}]},
            "items, row 2: price is a li",
        ),
        ("users", {"rows": [{"user_id": "k" * 1_001}]}, "users, row 1: user_id: the key has 1,001 characters"),
        (
            "events",
            {"events": [{"user_id": "u1", "item_id": "k" * 1_001, "is_click": 1}]},
            "events, row 1: the key has",
        ),
        ("events", {"events": [{"user_id": "u1", "is_click": 1}]}, "events[0]: item_id is missing"),
        ("events", {"events": [{"user_id": "u1", "item_id": "i1", "is_clik": 1}]}, "events[0]: unknown column"),
    ]
    for path, body, sentence in bad:
        answer = served.admin(path, body)
        assert (answer.status, answer.error[: len(sentence)]) == (422, sentence)
    assert client.ask("POST", "/admin/items", {"rows": [{"item_id": "a"}]}).status == 401


def _store_away_and_back(client: Client, features: Path) -> None:
    features.rename(features.with_suffix(".away"))
    answer = client.rank()
    assert answer.status == 503
    assert answer.error.endswith("the feature store cannot be used now (No such file or directory)")
    assert answer.headers["Retry-After"] == "1"
    features.with_suffix(".away").rename(features)
    assert client.rank().status == 200


def test_a_crowd_is_refused_instead_of_queued_without_end(bundles: tuple[Path, Path], features: Path) -> None:
    with Served(bundles[0], features, "--concurrency", "1", "--queue", "1", "--timeout", "0.5") as served:
        found: list[Any] = []

        def ask() -> None:
            client = served.client()
            found.extend(client.rank(items=[f"x{n}" for n in range(2_000)]) for _ in range(10))
            client.close()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {200, 429} <= {answer.status for answer in found} <= {200, 429, 503}
        refused = next(answer for answer in found if answer.status == 429)
        assert refused.error == "2 requests are in flight, at most 2 are allowed; try again later"
        assert int(refused.headers["Retry-After"]) >= 1
        metrics = served.metrics()
        assert metrics['unimixer_refused_total{reason="queue"}'] == sum(a.status == 429 for a in found)
        _slow_body(served)
        assert served.rank().status == 200
        assert served.metrics()["unimixer_in_flight"] == 0


def test_a_full_server_refuses_before_it_reads_a_body(bundles: tuple[Path, Path], features: Path) -> None:
    with Served(bundles[0], features, "--concurrency", "1", "--queue", "0", "--timeout", "20") as served:
        load, refusal, later = Load(served, clients=3), None, None
        head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", served.port), timeout=0.2) as raw:
                raw.sendall(head)  # and nothing of the body
                try:
                    refusal = next_answer(raw)
                except TimeoutError:
                    continue
                raw.settimeout(20)
                raw.sendall(b"x" * 900_000 + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                later = next_answer(raw)
                break
        load.stop()
        assert refusal is not None
        assert refusal.status == 429
        assert refusal.headers["Content-Type"] == "application/json"
        assert later is not None
        assert later.status == 200  # the connection serves on, behind the body
        assert served.rank().status == 200


def _slow_body(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw:
        raw.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        refusal = next_answer(raw)
        assert refusal.status == 408
        assert "the body did not arrive within 0.5 s" in refusal.error


def test_a_redis_that_is_away_is_503_and_comes_back(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(tmp_path),
        "--save",
        "",
        "--appendonly",
    ]
    redis = _start(command, port)
    address = f"redis://127.0.0.1:{port}/0"
    store = open_store(address)
    with store.filling(overwrite=False):
        fill(store, toy_tables())
    store.close()
    try:
        with Served(bundles[0], address) as served:
            client = served.client()
            before = client.rank().json["scores"]
            redis.terminate()
            redis.wait(10)
            answer = client.rank()
            assert answer.status == 503
            assert f"redis://127.0.0.1:{port}/0: the feature store cannot be used now" in answer.error
            redis = _start(command, port)
            assert client.rank().json["scores"] == before
            client.close()
    finally:
        redis.terminate()
        redis.wait(10)


def _start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*command, "yes"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise AssertionError("redis does not answer")


def test_the_server_runs_in_the_fast_event_loop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
