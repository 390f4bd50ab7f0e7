"""Keys of callers, limits of a server as it is by default, and what its log tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import API_KEY, CONTEXT, Served

from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.serving.settings import read_key


@pytest.fixture(scope="module")
def keyed(bundles: tuple[Path, Path], toy_features: Path) -> Iterator[Served]:
    """A server for everyone elsewhere that asks for keys, with the default limits."""
    with Served(bundles[0], toy_features, "--host", "0.0.0.0", keys=True) as served:
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
    keyed.wait_until(lambda: any(line["route"] == "/v2" for line in keyed.logged("request")))
    lines = [line for line in keyed.logged("request") if line["request_id"] == "logged"]
    assert [(line["status"], line["candidates"]) for line in lines] == [(200, 2), (422, 2)]
    assert keyed.other == []
    for secret in ('"u3"', "secret", API_KEY):
        assert secret not in json.dumps(keyed.lines)


@pytest.mark.parametrize("blank", ["", " " * 20, "\t\n" * 10])
def test_a_blank_key_is_refused_and_not_taken_for_no_key(
    blank: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIMIXER_API_KEY", blank)
    with pytest.raises(UnimixerError, match="the key in UNIMIXER_API_KEY is blank; unset it to serve without a key"):
        read_key("UNIMIXER_API_KEY", None)
    (tmp_path / "key").write_text(blank)
    with pytest.raises(UnimixerError, match="key is blank; write a key into the file"):
        read_key("UNIMIXER_API_KEY", tmp_path / "key")
    monkeypatch.delenv("UNIMIXER_API_KEY")
    assert read_key("UNIMIXER_API_KEY", None) is None


def test_a_key_is_read_without_the_white_space_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMIXER_API_KEY", f" {API_KEY}\n")
    found = read_key("UNIMIXER_API_KEY", None)
    assert found is not None
    assert found.get_secret_value() == API_KEY
    monkeypatch.setenv("UNIMIXER_API_KEY", "with\x01control-characters")
    with pytest.raises(UnimixerError, match="all printable ASCII"):
        read_key("UNIMIXER_API_KEY", None)


def test_a_server_that_everyone_may_ask_from_elsewhere_warns(
    bundles: tuple[Path, Path], toy_features: Path, keyed: Served, shared: Served
) -> None:
    with Served(bundles[0], toy_features, "--host", "0.0.0.0") as served:
        (line,) = served.logged("warning")
    assert "there is no API key; set UNIMIXER_API_KEY" in line["text"]
    assert keyed.logged("warning") == []
    assert shared.logged("warning") == []  # without a key, for this machine alone


def test_one_key_for_scores_and_for_the_administration_is_refused(
    bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("UNIMIXER_API_KEY", "UNIMIXER_ADMIN_KEY"):
        monkeypatch.setenv(name, API_KEY)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(bundles[0]), "--port", "0", "--store", "none"])
    assert ended.value.code == 2
    assert "the admin key is the API key; give whoever asks for scores another key" in capsys.readouterr().err


def test_a_key_that_is_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMIXER_API_KEY", "short")
    with pytest.raises(UnimixerError, match="the key in UNIMIXER_API_KEY has 5 characters; a key needs at least 16"):
        read_key("UNIMIXER_API_KEY", None)
