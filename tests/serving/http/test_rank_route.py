"""The ranking route without a network: what is kept before an answer, and the short way past the framework."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eager import EagerBundle
from pydantic import SecretStr
from served import CONTEXT

from unimixer.features.request import Request
from unimixer.serving.engine import Engine
from unimixer.serving.http.app import crowded_routes, make_app, plain_routes
from unimixer.serving.http.middleware import RequestMiddleware
from unimixer.serving.metrics import Metrics
from unimixer.serving.prediction_log.record import PredictionRecord
from unimixer.serving.settings import ServeSettings
from unimixer.serving.stores.sqlite import SQLiteStore

RANK = {"user": "u3", "context": CONTEXT, "items": ["i1", "i2", "i3"]}


class MemoryLog:
    """Keep answers in a list, as a prediction log."""

    def __init__(self) -> None:
        self.answers: list[PredictionRecord] = []

    def add(self, answer: PredictionRecord) -> None:
        self.answers.append(answer)


class Asked:
    """An application that is asked without a network; ``kept_at_start`` are the answers kept when one begins."""

    def __init__(self, engine: Engine, *, plain: bool) -> None:
        self.kept, self.kept_at_start = MemoryLog(), 0
        app = make_app(engine, self.kept)  # type: ignore[arg-type]
        routes = plain_routes(app) if plain else {}
        crowded = crowded_routes(app, engine)
        self.gate = RequestMiddleware(app, engine.metrics, lambda *_, **facts: None, routes, crowded)  # type: ignore[arg-type]

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        sent: list[Any] = []
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": [(b"x-request-id", b"asked")], "http_version": "1.1", "root_path": ""}  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.kept_at_start = len(self.kept.answers)
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))  # type: ignore[arg-type]
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        headers.pop("server-timing", None)
        return sent[0]["status"], headers, json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


@pytest.fixture
def engine(toy_bundle: EagerBundle, features: Path) -> Iterator[Engine]:
    settings = ServeSettings(bundle=features.parent, store=str(features), max_candidates=100)
    store = SQLiteStore(features)
    found = Engine(settings, store, lambda folder, threads: toy_bundle, Metrics())
    found.load()
    yield found
    found.close()
    store.close()


def test_an_answer_is_in_the_prediction_logs_keeping_before_its_first_byte(engine: Engine) -> None:
    asked = Asked(engine, plain=True)
    status, _, answer = asked.ask("POST", "/v1/rank", json.dumps(RANK).encode())
    assert (status, asked.kept_at_start) == (200, 1)
    (row,) = asked.kept.answers
    assert (row.request_id, row.user, row.items) == ("asked", "u3", RANK["items"])
    assert row.scores[:, 0].tolist() == pytest.approx(answer["scores"]["is_click"])
    assert asked.ask("POST", "/v1/rank", b"{}")[0] == 422
    assert len(asked.kept.answers) == 1  # a refusal is no answer


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health/live", b""),
        ("GET", "/health/ready", b""),
        ("GET", "/v1/rank", b""),
        ("GET", "/nowhere", b""),
        ("GET", "/v2/models/ranker", b""),
        ("POST", "/v1/rank", json.dumps(RANK).encode()),
        ("POST", "/v1/rank", b"no JSON"),
        ("POST", "/v1/rank", b'{"items": []}'),
        ("POST", "/admin/items", b"{}"),
    ],
)
def test_the_short_way_answers_as_the_framework_does(engine: Engine, method: str, path: str, body: bytes) -> None:
    short, long = (Asked(engine, plain=plain).ask(method, path, body) for plain in (True, False))
    assert short == long


BODY = json.dumps(RANK).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


def in_one_piece(*headers: bytes, line: bytes = b"POST /v1/rank HTTP/1.1", body: bytes = BODY) -> bytes:
    return line + b"\r\nHost: x\r\nX-Request-ID: asked\r\n" + b"".join(headers) + b"\r\n" + body


def test_a_full_server_refuses_unread_what_the_framework_refuses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(engine, plain=True)
    assert asked.gate.refusal(in_one_piece(LENGTH)) is None
    monkeypatch.setattr(engine.requests, "_in_flight", 1000)
    status, headers, answer = asked.ask("POST", "/v1/rank", BODY)
    refusal = asked.gate.refusal(in_one_piece(LENGTH))
    assert refusal is not None
    line, head, body = refusal
    assert line == b"HTTP/1.1 429 Too Many Requests\r\n"
    assert (status, answer) == (429, json.loads(body))
    read = dict(field.decode().split(": ") for field in head.split(b"\r\n") if field)
    assert read == headers
    text = engine.metrics.text().decode()
    assert 'unimixer_requests_total{route="/v1/rank",status="429"} 2.0' in text
    assert 'unimixer_refused_total{reason="queue"} 2.0' in text


UNREAD = (
    b"",
    b"POST /v1/rank HTTP/1.1\r\n",
    b"POST /v1/rank HTTP/1.1\r\n\r\n",
    in_one_piece(LENGTH, line=b"GET /v1/rank HTTP/1.1"),
    in_one_piece(LENGTH, line=b"POST /v1/rank?x=1 HTTP/1.1"),
    in_one_piece(LENGTH, line=b"POST /v1/rank HTTP/1.0"),
    in_one_piece(LENGTH, body=BODY[:-1]),
    in_one_piece(LENGTH, body=BODY + b"GET /health/live HTTP/1.1\r\n\r\n"),
    in_one_piece(LENGTH, LENGTH),
    in_one_piece(b"Content-Length: +%d\r\n" % len(BODY)),
    in_one_piece(b"Content-Length : %d\r\n" % len(BODY)),
    in_one_piece(b"Content-Length: " + b"0" * 30 + b"%d\r\n" % len(BODY)),
    in_one_piece(b"Content-Length: " + b"9" * 4_000 + b"\r\n"),
    in_one_piece(LENGTH, b"Transfer-Encoding: chunked\r\n"),
    in_one_piece(LENGTH, b"Connection: close\r\n"),
    in_one_piece(LENGTH, b"Expect: 100-continue\r\n"),
    in_one_piece(LENGTH, b"Upgrade: h2c\r\n"),
    in_one_piece(LENGTH, b"Folded: a\r\n b\r\n"),
    in_one_piece(LENGTH, b"Bare: a\nTransfer-Encoding: chunked\r\n"),
    in_one_piece(LENGTH, b"Null: \0\r\n"),
    in_one_piece(LENGTH, b"Long: " + b"x" * 5_000 + b"\r\n"),
)
"""Requests that only a parser understands."""


def test_a_request_that_only_a_parser_understands_is_not_refused_unread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.requests, "_in_flight", 1000)
    for data in UNREAD:
        assert Asked(engine, plain=True).gate.refusal(data) is None, data


def test_where_callers_have_a_key_it_is_checked_before_the_room(engine: Engine) -> None:
    app = make_app(engine, None)
    assert list(crowded_routes(app, engine)) == [b"POST /v1/rank HTTP/1.1"]
    engine.settings = engine.settings.model_copy(update={"api_key": SecretStr("key")})
    assert crowded_routes(app, engine) == {}


def test_idle_threads_take_parts_of_a_request_in_its_order(
    engine: Engine, toy_bundle: EagerBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = engine.model.reader.read(RANK, now=1_700_000_000_000)
    whole = engine.rank(engine.model, call)
    sizes: list[int] = []

    def counted(request: Request) -> Any:
        sizes.append(len(request))
        return toy_bundle.score(request)

    monkeypatch.setattr("unimixer.serving.engine.LEAST_PART", 1)
    monkeypatch.setattr(engine.model, "bundle", SimpleNamespace(score=counted))
    split = engine.rank(engine.model, call)  # no job of the pool runs, so all its threads are idle
    assert len(sizes) == min(1 + engine.settings.concurrency, len(RANK["items"]))
    assert sum(sizes) == len(RANK["items"])
    np.testing.assert_allclose(split.scores, whole.scores, atol=1e-6)


def test_routes_without_parameters_are_called_without_the_framework(engine: Engine) -> None:
    found = plain_routes(make_app(engine, None))
    assert {("POST", "/v1/rank"), ("GET", "/health/live"), ("GET", "/metrics"), ("POST", "/admin/events")} <= set(found)
    assert not any("{" in path for _, path in found)
