"""A real server: answers, and refusals in one shape."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from served import API_KEY, CONTEXT, Client, Served
from toy import DAY, START

from unimixer.cli import main
from unimixer.data.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.export import open_bundle
from unimixer.inference import Predictor
from unimixer.serving.settings import read_key
from unimixer.training.run import RunFolder

NOW = START + 9 * DAY


@pytest.fixture
def client(shared: Served) -> Iterator[Client]:
    client = shared.client()
    yield client
    client.close()


def test_scores_are_those_of_prediction(client: Client, toy_run: RunFolder, bundles: tuple[Path, Path]) -> None:
    predictor, worst = Predictor(toy_run.folder, device="cpu"), 0.0
    items = [*(f"i{n}" for n in range(30)), "never"]
    for user in ("u1", "u3", "u7", "nobody"):
        answer = client.rank(user, items, context={**CONTEXT, "time_ms": NOW})
        assert answer.status == 200, answer.body
        context = {"user_id": user, **CONTEXT, "time_ms": NOW}
        rows = pl.DataFrame([{"item_id": item, **context} for item in items])
        expected = predictor.predict(Chunk(rows, "rows"))
        found = answer.json["scores"]
        assert list(found) == ["is_click", "long_view"]
        for task in found:
            worst = max(worst, float(np.abs(np.asarray(found[task]) - expected[task].to_numpy()).max()))
        order = sorted(range(len(items)), key=lambda i: -found["is_click"][i])
        assert answer.json["ranking"] == order
        assert answer.json["unknown"] == {"user": user == "nobody", "items": 1}
        assert answer.json["model"] == {"name": "ranker", "version": open_bundle(bundles[0]).version}
    assert worst < 1e-5


def test_the_ranking_follows_the_task_that_is_asked_for(client: Client) -> None:
    items = [f"i{n}" for n in range(30)]
    found = client.rank("u3", items, rank_by="long_view").json
    assert found["ranking"] == sorted(range(30), key=lambda i: -found["scores"]["long_view"][i])


def test_raw_features_inline_win(client: Client) -> None:
    plain = client.rank("u3", ["i1", "i2"]).json["scores"]["is_click"]
    inline = client.rank({"user_id": "u3", "age": 90}, [{"item_id": "i1", "price": 9_000.0}, "i2"])
    assert inline.status == 200, inline.body
    assert inline.json["scores"]["is_click"] != plain
    new = client.rank(None, [{"price": 3.0, "category": "c1"}, {"item_id": 77, "picture": None}])
    assert new.status == 200, new.body
    assert new.json["unknown"] == {"user": False, "items": 2}


def test_every_answer_has_the_callers_request_id_or_a_new_one(client: Client) -> None:
    for path in ("/v1/rank", "/nowhere", "/health/live", "/docs"):
        assert client.ask("GET", path, headers={"X-Request-ID": "a-1.B_2"}).headers["X-Request-ID"] == "a-1.B_2"
        for bad in ("with space", "x" * 129, "{}", ""):
            found = client.ask("GET", path, headers={"X-Request-ID": bad}).headers["X-Request-ID"]
            assert re.fullmatch(r"[0-9a-f]{32}", found)


BAD: list[tuple[bytes, int, str]] = [
    (b"", 400, "the body is not JSON: EOF"),
    (b'{"user": "u1"', 400, "the body is not JSON: EOF"),
    (b'{"user": "u1", "items": [NaN]}', 400, "the body is not JSON: expected value"),
    (b'{"user": "u1", "items": [Infinity]}', 400, "the body is not JSON"),
    (b"\xff\xfe", 400, "the body is not JSON"),
    (b"[" * 5_000, 400, "the body is not JSON: recursion limit"),
    (b'{"user": "\\ud800", "items": ["i1"]}', 400, "the body is not JSON"),
    (b"[1]", 422, "the body is a JSON list, expected an object"),
    (b"3", 422, "the body is a JSON int, expected an object"),
    (b'{"uesr": "u1", "items": ["i1"]}', 422, "the body: unknown field 'uesr'; did you mean 'user'?"),
    (b'{"user": "u1"}', 422, "items: expected a list of keys or objects, found nothing"),
    (b'{"items": "i1"}', 422, "items: expected a list of keys or objects, found text"),
    (b'{"items": []}', 422, "items: 0 candidates, expected 1 to 100"),
    (b'{"items": [true]}', 422, "items[0]: a key is text or an integer, found true or false"),
    (b'{"items": [1.5]}', 422, "items[0]: a key is text or an integer, found a number"),
    (b'{"items": [null]}', 422, "items[0]: expected a key or an object of columns"),
    (b'{"items": [123456789012345678901234567890]}', 422, "items[0]: the integer does not fit 64 bits"),
    (b'{"items": [["i1"]]}', 422, "items[0]: a key is text or an integer, found a list"),
    (b'{"items": [{"prize": 3}]}', 422, "items[0]: unknown field 'prize'; did you mean 'price'?"),
    (b'{"items": [{"price": {"a": 1}}]}', 422, "items[0].price: expected a plain value or a list"),
    (b'{"items": [{"price": 1e999}]}', 422, "items[0].price: inf is not a finite number; send null"),
    (b'{"user": {"ages": 3}, "items": ["i1"]}', 422, "user: unknown field 'ages'; did you mean 'age'?"),
    (b'{"user": 1.5, "items": ["i1"]}', 422, "user: a key is text or an integer"),
    (b'{"context": [], "items": ["i1"]}', 422, "context: expected an object of columns, found a list"),
    (b'{"context": {"tap": 1}, "items": ["i1"]}', 422, "context: unknown field 'tap'; did you mean 'tab'?"),
    (b'{"context": {"tab": "x"}, "items": ["i1"]}', 422, "context: no column 'position'; send it"),
    (b'{"rank_by": "is_clik", "items": ["i1"]}', 422, "unknown task 'is_clik'; did you mean 'is_click'?"),
    (b'{"rank_by": ["is_click"], "items": ["i1"]}', 422, "unknown task"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "sentence"), BAD)
def test_bad_input_is_refused_with_one_sentence(body: bytes, status: int, sentence: str, client: Client) -> None:
    answer = client.ask("POST", "/v1/rank", body)
    assert (answer.status, answer.error[: len(sentence)]) == (status, sentence)
    assert client.rank().status == 200  # the connection and the server live on


def test_values_that_do_not_fit_are_named(client: Client) -> None:
    for context, sentence in (
        ({**CONTEXT, "position": "front"}, "context, row 1: position='front' is not a number"),
        ({**CONTEXT, "time_ms": "yesterday"}, "context, row 1: time_ms='yesterday' is not a"),
        ({**CONTEXT, "time_ms": 9e18}, "context, row 1: time_ms=9e+18 is not a time in ms"),
        ({**CONTEXT, "tab": ["a"]}, "context: column 'tab' has type List(String), expected one value a row"),
        ({**CONTEXT, "words": 3}, ""),
    ):
        answer = client.rank(context=context)
        assert answer.status in (200, 422)
        if sentence:
            assert answer.error.startswith(sentence)


def test_items_that_stand_twice_are_refused(client: Client) -> None:
    answer = client.rank(items=["i1", "i2", "i1"])
    assert (answer.status, answer.error) == (
        422,
        "items: 'i1' stands at 0 and at 2, counted from 0; send every item once",
    )


def test_limits_of_the_body_and_of_candidates(client: Client, shared: Served) -> None:
    many = client.rank(items=list(range(101)))
    assert (many.status, many.error) == (422, "items: 101 candidates, expected 1 to 100; send several requests")
    large = client.ask("POST", "/v1/rank", b"x" * 10_000_000)
    assert (large.status, large.error) == (
        413,
        "the body has 10,000,000 bytes, at most 100,000 are read; send several requests",
    )
    fresh = shared.client()
    chunked = (b"y" * 50_000 for _ in range(4))
    fresh.connection.request("POST", "/v1/rank", chunked, {}, encode_chunked=True)
    response = fresh.connection.getresponse()
    assert response.status == 413
    assert b"more than 100,000 bytes" in response.read()
    fresh.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/rank", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/%00", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/docs/../../etc/passwd", 404),
        ("POST", "/v1//rank", 404),
        ("POST", "/v1/rank/..", 404),
        ("GET", "/" + "a" * 10_000, 404),
        ("OPTIONS", "/v1/rank", 405),
    ],
)
def test_paths_that_lead_nowhere(method: str, path: str, status: int, client: Client) -> None:
    answer = client.ask(method, path)
    assert answer.status == status
    assert answer.error


def test_what_is_no_http_does_no_harm(shared: Served, client: Client) -> None:
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n" * 50, b"x" * 200_000):
        with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as raw:
            raw.sendall(noise)
            with contextlib.suppress(ConnectionError):
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65_536):
                    pass
    assert client.rank().status == 200


def test_the_open_inference_protocol(client: Client, bundles: tuple[Path, Path]) -> None:
    assert client.ask("GET", "/v2").json["name"] == "unimixer"
    assert client.ask("GET", "/v2/health/live").json == {"live": True}
    assert client.ask("GET", "/v2/health/ready").json == {"ready": True}
    assert client.ask("GET", "/v2/models/ranker/ready").json == {"name": "ranker", "ready": True}
    facts = client.ask("GET", "/v2/models/ranker").json
    bundle = open_bundle(bundles[0], threads=1)
    assert [found["name"] for found in facts["inputs"]] == [found.name for found in bundle.inputs]
    for request, _ in bundle.held_out()[:3]:
        body = {"id": "x7", "inputs": _tensors(facts, request)}
        answer = client.ask("POST", "/v2/models/ranker/infer", body)
        assert answer.status == 200, answer.body
        assert answer.json["id"] == "x7"
        (output,) = answer.json["outputs"]
        assert output["shape"] == [len(request), 2]
        found = np.asarray(output["data"], dtype=np.float32).reshape(output["shape"])
        np.testing.assert_allclose(found, bundle.score(request), rtol=0, atol=1e-6)


def _tensors(facts: Any, request: Any) -> list[dict[str, Any]]:
    sides = {"user": request.user.inputs(), "candidates": request.candidates.inputs()}
    found = []
    for tensor in facts["inputs"]:
        side, _, column = tensor["name"].partition(".")
        values = (
            sides[side][column] if side in sides else {**sides["user"], **sides["candidates"]}[tensor["name"]]
        ).numpy()
        data = [None if v != v else v for v in values.ravel().tolist()]
        found.append({**tensor, "shape": list(values.shape), "data": data})
    return found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inputs": None}, "inputs: expected a list of tensors"),
        ({"inputs": []}, "inputs: user.ids is missing; GET /v2/models/NAME lists the inputs"),
        ({"inputs": [{"name": "user.id"}]}, "inputs: unknown tensor 'user.id'; did you mean 'user.ids'?"),
        ({"inputs": [{"name": "user.ids", "datatype": "FP32"}]}, "user.ids: datatype 'FP32', expected INT32"),
        (
            {"inputs": [{"name": "user.ids", "datatype": "INT32", "shape": [2, 1], "data": [1, 2]}]},
            "user.ids: shape [2, 1], expected [1, 1] (-1 is any number)",
        ),
        (
            {"inputs": [{"name": "user.ids", "datatype": "INT32", "shape": [1, 1], "data": [-1]}]},
            "user.ids: expected integers from 0 to 2147483647",
        ),
        (
            {"inputs": [{"name": "user.ids", "datatype": "INT32", "shape": [1, 1], "data": [1, 2]}]},
            "user.ids: 2 values, but shape [1, 1] has 1",
        ),
        ({"input": []}, "the body: unknown field 'input'; did you mean 'inputs'?"),
        ({"inputs": [], "outputs": [{"name": "logits"}]}, "outputs: unknown output 'logits'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: Any, sentence: str, client: Client) -> None:
    answer = client.ask("POST", "/v2/models/ranker/infer", change)
    assert (answer.status, answer.error[: len(sentence)]) == (422, sentence)


def test_an_id_that_no_table_has_is_refused(client: Client, bundles: tuple[Path, Path]) -> None:
    facts = client.ask("GET", "/v2/models/ranker").json
    tensors = _tensors(facts, open_bundle(bundles[0], threads=1).held_out()[0][0])
    tensors[0]["data"] = [2_000_000_000]
    answer = client.ask("POST", "/v2/models/ranker/infer", {"inputs": tensors})
    assert answer.status == 422
    assert "is out of range" in answer.error


def test_counters_count(shared: Served, client: Client) -> None:
    before = shared.metrics()
    client.rank("nobody", ["i1", "never", "never again"])
    client.ask("POST", "/v1/rank", b"{")
    after = shared.metrics()
    for name, more in (
        ('unimixer_requests_total{route="/v1/rank",status="200"}', 1),
        ('unimixer_requests_total{route="/v1/rank",status="400"}', 1),
        ("unimixer_unknown_users_total", 1),
        ("unimixer_unknown_items_total", 2),
        ("unimixer_candidates_sum", 3),
        ('unimixer_stage_seconds_count{stage="score"}', 1),
    ):
        assert after[name] - before.get(name, 0) == more, name
    assert after["unimixer_in_flight"] == 0
    assert 0 < after["unimixer_cached_items"] <= 1_000


def test_the_openapi_page_describes_every_path(client: Client) -> None:
    document = client.ask("GET", "/openapi.json").json
    assert {"/v1/rank", "/v2/models/{name}/infer", "/admin/reload", "/metrics"} <= set(document["paths"])
    body = document["paths"]["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][name]["properties"]) == {"user", "context", "items", "rank_by"}
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])
    assert b"openapi.json" in client.ask("GET", "/docs").body


@pytest.fixture(scope="module")
def keyed(bundles: tuple[Path, Path], toy_features: Path) -> Iterator[Served]:
    """A server that asks for keys, with the default limits."""
    with Served(bundles[0], toy_features, keys=True) as served:
        yield served


def test_keys_are_asked_for_and_compared(keyed: Served) -> None:
    body = {"user": "u3", "context": CONTEXT, "items": ["i1"]}
    client = keyed.client()
    assert API_KEY.encode() not in Path(f"/proc/{keyed.process.pid}/cmdline").read_bytes()
    for headers, said in (
        ({}, "the API key is missing"),
        ({"X-API-Key": "wrong"}, "the API key is wrong"),
        ({"Authorization": "Bearer wrong"}, "the API key is wrong"),
        ({"Authorization": f"Basic {API_KEY}"}, "the API key is missing"),
        ({"X-API-Key": "\xe9"}, "the API key is wrong"),
    ):
        for path in ("/v1/rank", "/v2/models/ranker/infer"):
            answer = client.ask("POST", path, body, headers)
            assert answer.status == 401
            assert answer.error.startswith(said)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.ask("POST", "/v1/rank", body, {"X-API-Key": API_KEY}).status == 200
    assert client.ask("POST", "/v1/rank", body, {"Authorization": f"bearer {API_KEY}"}).status == 200
    assert client.ask("POST", "/admin/reload", None, {"X-API-Key": API_KEY}).status == 401
    assert client.ask("GET", "/health/ready").status == 200
    client.close()


def test_a_hundred_thousand_candidates_are_refused_at_the_default_limit(keyed: Served) -> None:
    client, headers = keyed.client(), {"X-API-Key": API_KEY}
    body = {"user": "u3", "context": CONTEXT, "items": list(range(100_000))}
    answer = client.ask("POST", "/v1/rank", body, headers)
    assert (answer.status, answer.error) == (
        422,
        "items: 100,000 candidates, expected 1 to 2,000; send several requests",
    )
    assert client.ask("POST", "/v1/rank", {**body, "items": list(range(2_000))}, headers).status == 200
    client.close()


def test_logs_are_json_lines_without_the_data_of_users(keyed: Served) -> None:
    client, headers = keyed.client(), {"X-API-Key": API_KEY, "X-Request-ID": "logged"}
    body = {"user": "u3", "context": CONTEXT, "items": ["i1", "secret-item"]}
    assert client.ask("POST", "/v1/rank", body, headers).status == 200
    body["context"] = {**CONTEXT, "position": "secret-position"}
    assert client.ask("POST", "/v1/rank?secret-query", body, headers).status == 422
    client.ask("GET", "/v2")
    client.close()
    keyed.wait_for("request", count=3)
    lines = [line for line in keyed.logged("request") if line["request_id"] == "logged"]
    assert [(line["status"], line["candidates"]) for line in lines] == [(200, 2), (422, 2)]
    assert keyed.other == []
    for secret in ('"u3"', "secret", API_KEY):
        assert secret not in json.dumps(keyed.lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store", "missing.sqlite"], "missing.sqlite: no such feature store; make one with: unimixer store build"),
        (["--store", "redis://127.0.0.1:1/0"], "redis://127.0.0.1:1/0: the feature store cannot be used now"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:"),
        (["--concurrency", "0"], "serve: concurrency=0: input should be greater than 0"),
        (["--admin-key-file", "missing"], "missing: cannot read the key"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    options: list[str],
    message: str,
    bundles: tuple[Path, Path],
    toy_features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store = [] if "--store" in options else ["--store", str(toy_features)]
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(bundles[0]), "--port", "0", *store, *options])
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_a_key_that_is_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMIXER_API_KEY", "short")
    with pytest.raises(UnimixerError, match="the key in UNIMIXER_API_KEY has 5 characters; a key has at least 16"):
        read_key("UNIMIXER_API_KEY", None)


def test_a_tampered_bundle_is_not_served(bundles: tuple[Path, Path], toy_features: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(bundles[0], bad)
    graph = next(bad.glob("*.onnx"))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    served = Served(bad, toy_features)
    assert served.process.wait(60) == 2
    served.__exit__()
    assert "its checksum differs" in "".join(served.other)
    assert "Traceback" not in "".join(served.other)
