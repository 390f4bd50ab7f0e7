"""Connections of a real server: heads of bounded size and time, a bounded number of them, and a word for each."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Client, Served, next_answer

from unimixer.serving.http.connections import MAX_HEAD, MAX_PATH

IDLE, PATIENCE, MOST = 1.0, 0.5, 12


@pytest.fixture(scope="module")
def narrow(bundles: tuple[Path, Path], toy_features: Path) -> Iterator[Served]:
    """A server with small limits."""
    options = ["--idle", str(IDLE), "--timeout", str(PATIENCE), "--connections", str(MOST)]
    with Served(bundles[0], toy_features, *options) as served:
        yield served


def opened(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=10)


def answer_of(raw: socket.socket, data: bytes = b"") -> tuple[int, str]:
    """Status and sentence of the data and what comes until the server hangs up."""
    try:
        while part := raw.recv(65_536):
            data += part
    except ConnectionResetError:
        pass  # it did not read all that was sent
    if not data:
        return 0, ""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    found = json.loads(body)
    assert f"x-request-id: {found['request_id']}".encode() in head
    return int(head.split(b" ")[1]), found["error"]


def pour(raw: socket.socket, start: bytes, more: bytes) -> int:
    """Send without an end; returns how much was taken before the server hung up."""
    sent = 0
    try:
        raw.sendall(start)
        while sent < 64 << 20:
            raw.sendall(more)
            sent += len(more)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    ("start", "status", "sentence"),
    [
        (b"GET /health/live HTTP/1.1\r\nX-Long: ", 431, f"the head of the request has more than {MAX_HEAD:,} bytes"),
        (b"GET /", 414, f"the path has more than {MAX_PATH:,} bytes"),
        (b"GET /health/live?q=", 414, f"the path has more than {MAX_PATH:,} bytes"),
    ],
)
def test_a_head_without_an_end_is_cut_off(start: bytes, status: int, sentence: str, narrow: Served) -> None:
    name = f'unimixer_requests_total{{route="none",status="{status}"}}'
    before = narrow.metrics().get(name, 0)
    with opened(narrow) as raw:
        assert pour(raw, start, b"a" * 65_536) < 16 << 20  # what the two kernels hold
    with opened(narrow) as raw:
        raw.sendall(start + b"a" * MAX_HEAD)
        assert answer_of(raw) == (status, sentence)
    assert narrow.metrics()[name] == before + 2
    narrow.wait_until(lambda: [line["status"] for line in narrow.logged("connection refused")].count(status) >= 2)


@pytest.mark.parametrize("between", [b"5;", b"0\r\nX-Trailer: "], ids=["an extension", "a trailer"])
def test_what_has_no_end_between_the_parts_of_a_body_is_cut_off(between: bytes, narrow: Served) -> None:
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{  \r\n"
    before = narrow.metrics().get('unimixer_connections_refused_total{reason="trailers"}', 0)
    with opened(narrow) as raw:
        assert pour(raw, head + between, b"a" * 65_536) < 16 << 20
    assert narrow.metrics()['unimixer_connections_refused_total{reason="trailers"}'] == before + 1
    assert narrow.rank().status == 200


def test_a_head_that_comes_whole_and_is_too_large_is_refused(narrow: Served) -> None:
    for head, status in (
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * (MAX_HEAD // 5), 431),
        (b"GET /" + b"a" * (MAX_PATH + 1) + b" HTTP/1.1\r\nHost: x\r\n", 414),
    ):
        with opened(narrow) as raw:
            raw.sendall(head + b"\r\n")
            assert answer_of(raw)[0] == status
    with opened(narrow) as raw:
        raw.sendall(b"GET /health/live?" + b"a" * (MAX_PATH - 100) + b" HTTP/1.1\r\nConnection: close\r\nB: ")
        raw.sendall(b"b" * (MAX_HEAD - MAX_PATH - 1_000) + b"\r\n\r\n")
        assert next_answer(raw).status == 200


def test_silent_and_slow_heads_are_ended_in_time(narrow: Served) -> None:
    before = time.monotonic()
    with opened(narrow) as raw:
        assert answer_of(raw) == (408, f"no request arrived within {IDLE:g} s")
    assert IDLE * 0.9 < time.monotonic() - before < IDLE + 2
    with opened(narrow) as raw:  # a byte now and then
        before = time.monotonic()
        raw.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
        raw.settimeout(0.1)
        data = b""
        while not data:
            assert time.monotonic() - before < PATIENCE + 2
            try:
                raw.sendall(b"a")
                data = raw.recv(65_536)
            except TimeoutError:
                continue
        raw.settimeout(10)
        assert answer_of(raw, data) == (408, f"no complete request head arrived within {PATIENCE:g} s")
    reasons = [line["reason"] for line in narrow.logged("connection refused")]
    assert {"idle", "head"} <= set(reasons)


@pytest.mark.parametrize(
    "tail",
    [b"", b"\r\n", b"GET /health/live HTTP/1.1\r\nX: "],
    ids=["silence", "blank lines", "half a head"],
)
def test_a_kept_connection_is_ended_when_no_further_request_comes(tail: bytes, narrow: Served) -> None:
    with opened(narrow) as raw:
        raw.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert next_answer(raw).status == 200
        before = time.monotonic()
        raw.settimeout(0.2)
        while time.monotonic() - before < 10:
            try:
                if tail:
                    raw.sendall(tail[:2])
                    tail = tail[2:] or tail
                if not raw.recv(65_536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - before < IDLE + 2


def test_a_body_that_nobody_reads_is_ended_too(narrow: Served) -> None:
    def drip() -> None:
        while time.monotonic() - before < 10:
            raw.sendall(b"a" * 100)
            time.sleep(0.05)

    with opened(narrow) as raw:
        raw.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert next_answer(raw).status == 404
        before = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip()
        assert time.monotonic() - before < PATIENCE + 2


def test_more_connections_than_the_limit_are_refused_and_room_comes_back(narrow: Served) -> None:
    client = narrow.client()
    narrow.wait_until(lambda: client.rank().status == 200)  # a first request may take longer than it waits
    before = narrow.metrics().get('unimixer_connections_refused_total{reason="connections"}', 0)
    several = [opened(narrow) for _ in range(MOST - 1)]
    time.sleep(0.1)
    with opened(narrow) as one_more:
        assert answer_of(one_more) == (503, "12 connections are open, which is the limit; try again later")
    assert client.rank().status == 200  # who was there before is served
    for raw in several:
        raw.close()
    time.sleep(0.1)
    client.close()
    assert narrow.rank().status == 200
    assert narrow.metrics()['unimixer_connections_refused_total{reason="connections"}'] == before + 1


def test_what_is_no_http_is_answered_in_the_one_shape_and_told_as_json(narrow: Served) -> None:
    with opened(narrow) as raw:
        raw.sendall(b"GET\r\n\r\n")
        assert answer_of(raw) == (400, "this is not an HTTP/1.1 request")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    client = Client(narrow.port)
    assert client.ask("GET", "/health/live", headers=upgrade).status == 200
    client.close()
    narrow.wait_until(lambda: narrow.logged("connection refused")[-1]["reason"] == "syntax")
    assert narrow.other == []
    assert narrow.logged("library") == []  # one line is enough


CHUNKED = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "a size that is no number": CHUNKED + b"zz\r\n",
    "a second size that is no number": CHUNKED + b"3\r\n{  \r\n-1\r\n",
    "a size beyond 64 bits": CHUNKED + b"f" * 18 + b"\r\n",
    "no end of a chunk": CHUNKED + b"3\r\n{  x\r\n",
    "an encoding without chunks": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n",
}


@pytest.mark.parametrize("request_", BROKEN.values(), ids=BROKEN)
def test_a_malformed_body_is_answered_once_and_logged(request_: bytes, narrow: Served) -> None:
    before, lines = narrow.metrics(), len(narrow.logged("connection refused"))
    with opened(narrow) as raw:
        raw.sendall(request_)
        status, sentence = answer_of(raw)
    assert (status, sentence[:43]) == (400, "the body of the request breaks the rules of")
    assert narrow.wait_for("connection refused", lines + 1)["reason"] == "syntax"
    refused = narrow.logged("connection refused")[-1]["request_id"]
    narrow.wait_until(lambda: refused in [line["request_id"] for line in narrow.logged("request")])
    after = narrow.metrics()
    counts = {k: v - before.get(k, 0) for k, v in after.items() if k.startswith("unimixer_requests_total")}
    assert {k: v for k, v in counts.items() if v and "metrics" not in k} == {
        'unimixer_requests_total{route="/v1/rank",status="400"}': 1
    }


@pytest.mark.parametrize("tail", [b"\x00\x01\r\n\r\n", CHUNKED + b"zz\r\n"], ids=["no request", "a malformed body"])
@pytest.mark.parametrize("before", [1, 2])
def test_requests_before_a_malformed_one_are_answered_first(before: int, tail: bytes, narrow: Served) -> None:
    with opened(narrow) as raw:
        raw.sendall(before * b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" + tail)
        data = b""
        while part := raw.recv(65_536):
            data += part
    assert re.findall(rb"HTTP/1\.1 (\d+) ", data) == [b"200"] * before + [b"400"]


def test_a_request_that_is_answered_already_gets_no_second_answer(narrow: Served) -> None:
    with opened(narrow) as raw:
        raw.sendall(CHUNKED.replace(b"/v1/rank", b"/nowhere"))
        assert next_answer(raw).status == 404
        raw.sendall(b"zz\r\n")
        assert raw.recv(65_536) == b""


def test_hundreds_of_silent_connections_keep_nobody_waiting(bundles: tuple[Path, Path], toy_features: Path) -> None:
    with Served(bundles[0], toy_features, "--connections", "300", "--idle", "2") as served:
        served.rank()
        silent = [opened(served) for _ in range(280)]
        before = time.monotonic()
        assert served.rank().status == 200
        assert time.monotonic() - before < 1
        ended = sum(answer_of(raw)[0] == 408 for raw in silent)
        assert ended == len(silent)
        for raw in silent:
            raw.close()
        assert served.metrics()['unimixer_connections_refused_total{reason="idle"}'] == len(silent)
