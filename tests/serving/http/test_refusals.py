"""What a real server refuses, in one shape and one sentence."""

from __future__ import annotations

import socket

import pytest
from served import ADMIN_KEY, CONTEXT, Client, Served

BAD: list[tuple[bytes, int, str]] = [
    (b"", 400, "the body is not JSON: EOF"),
    (b'{"user": "u1"', 400, "the body is not JSON: EOF"),
    (b'{"user": "u1", "items": [NaN]}', 400, "the body is not JSON: expected value"),
    (b'{"user": "u1", "items": [Infinity]}', 400, "the body is not JSON"),
    (b"\xff\xfe", 400, "the body is not JSON"),
    (b"[" * 5_000, 400, "the body is not JSON: recursion limit"),
    (b'{"user": "\\ud800", "items": ["i1"]}', 400, "the body is not JSON"),
    (b"[1]", 422, "the body is a list, expected an object"),
    (b"null", 422, "the body is null, expected an object"),
    (b"1.5", 422, "the body is a number, expected an object"),
    (b"3", 422, "the body is a number, expected an object"),
    (b'{"uesr": "u1", "items": ["i1"]}', 422, "the body: unknown field 'uesr'; did you mean 'user'?"),
    (b'{"user": "u1"}', 422, "items: expected a list of keys or objects, found nothing"),
    (b'{"items": "i1"}', 422, "items: expected a list of keys or objects, found text"),
    (b'{"items": []}', 422, "items: 0 candidates, expected 1 to 100"),
    (b'{"items": [true]}', 422, "items[0]: a key must be text or an integer, found true or false"),
    (b'{"items": [1.5]}', 422, "items[0]: a key must be text or an integer, found a number"),
    (b'{"items": [null]}', 422, "items[0]: expected a key or an object of columns"),
    (b'{"items": [123456789012345678901234567890]}', 422, "items[0]: the integer does not fit 64 bits"),
    (b'{"items": [["i1"]]}', 422, "items[0]: a key must be text or an integer, found a list"),
    (b'{"items": [{"prize": 3}]}', 422, "items[0]: unknown field 'prize'; did you mean 'price'?"),
    (b'{"items": [{"price": {"a": 1}}]}', 422, "items[0].price: expected a single value or a list"),
    (b'{"items": [{"price": 1e999}]}', 422, "items[0].price: inf is not a finite number; send null"),
    (b'{"user": {"ages": 3}, "items": ["i1"]}', 422, "user: unknown field 'ages'; did you mean 'age'?"),
    (b'{"user": 1.5, "items": ["i1"]}', 422, "user: a key must be text or an integer"),
    (b'{"context": [], "items": ["i1"]}', 422, "context: expected an object of columns, found a list"),
    (b'{"context": {"tap": 1}, "items": ["i1"]}', 422, "context: unknown field 'tap'; did you mean 'tab'?"),
    (b'{"context": {"tab": "x"}, "items": ["i1"]}', 422, "context: column 'position' is missing; send it"),
    (b'{"rank_by": "is_clik", "items": ["i1"]}', 422, "unknown task 'is_clik'; did you mean 'is_click'?"),
    (b'{"rank_by": ["is_click"], "items": ["i1"]}', 422, "unknown task"),
    (b'{"items": ["i1", "%s"]}' % (b"k" * 1_001), 422, "items[1]: the key has 1,001 characters, at most 1,000"),
    (b'{"user": "%s", "items": ["i1"]}' % (b"k" * 1_001), 422, "user: the key has 1,001 characters, at most 1,000"),
    (b'{"user": {"user_id": "%s"}, "items": ["i1"]}' % (b"k" * 1_001), 422, "user: the key has 1,001 characters"),
    (b'{"items": [{"item_id": "%s"}]}' % (b"k" * 1_001), 422, "items[0]: the key has 1,001 characters"),
    (b'{"context": {"words": [%s1]}, "items": ["i1"]}' % (b"1," * 10_000), 422, "context.words: the list has 10,001"),
]  # fmt: skip


LONG = "9" * 4_300
"""The longest integer that JSON readers take; Python has no text for a longer one, as a product of two is."""


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/rank", '{"rank_by": LONG, "items": ["i1"]}', "rank_by"),
        ("/v1/rank", '{"user": LONG, "items": ["i1"]}', "user"),
        ("/v1/rank", '{"items": ["i1", LONG]}', "items[1]"),
        ("/v1/rank", '{"items": [{"price": -LONG}]}', "items[0].price"),
        ("/v2/models/ranker/infer", '{"id": LONG, "inputs": []}', "id"),
        ("/v2/models/ranker/infer", '{"inputs": [{"name": LONG}]}', "inputs[0].name"),
        (
            "/v2/models/ranker/infer",
            '{"inputs": [{"name": "user.sparse_ids", "shape": [LONG, LONG]}]}',
            "inputs[0].shape[0]",
        ),
        (
            "/v2/models/ranker/infer",
            '{"inputs": [{"name": "user.sparse_ids", "datatype": LONG}]}',
            "inputs[0].datatype",
        ),
        ("/v2/models/ranker/infer", '{"inputs": [], "outputs": [{"name": LONG}]}', "outputs[0].name"),
        ("/admin/items", '{"rows": [{"item_id": "a", "price": LONG}]}', "rows[0].price"),
        ("/admin/users", '{"rows": [{"user_id": LONG}]}', "rows[0].user_id"),
        ("/admin/events", '{"events": [{"user_id": "a", "item_id": "b", "time_ms": LONG}]}', "events[0].time_ms"),
        ("/admin/events", '{"events": [{"event_id": LONG}]}', "events[0].event_id"),
    ],
)
def test_an_integer_beyond_64_bits_is_refused_wherever_it_stands(
    path: str, body: str, where: str, client: Client
) -> None:
    for number in (LONG, str(2**63)):
        answer = client.ask("POST", path, body.replace("LONG", number).encode(), {"X-API-Key": ADMIN_KEY})
        assert (answer.status, answer.error) == (
            422,
            f"{where}: the integer does not fit 64 bits; send large keys as text",
        )


def test_long_keys_of_digits_are_text_and_no_integers(client: Client) -> None:
    answer = client.rank(items=["9" * 30, "i1"])
    assert (answer.status, answer.json["unknown"]["items"]) == (200, 1)


@pytest.mark.parametrize(("body", "status", "sentence"), BAD)
def test_bad_input_is_refused_with_one_sentence(body: bytes, status: int, sentence: str, client: Client) -> None:
    answer = client.ask("POST", "/v1/rank", body)
    assert (answer.status, answer.error[: len(sentence)]) == (status, sentence)
    assert client.rank().status == 200  # the connection and the server live on


def test_a_column_of_lists_and_single_values_is_named_with_its_rows(client: Client) -> None:
    for name, values in (("words", (["red"], "blue")), ("category", ("c1", ["c2"])), ("price", (3.0, [4.0]))):
        items = [{"item_id": "i1"}, *({"item_id": f"i{n + 2}", name: value} for n, value in enumerate(values))]
        answer = client.rank(items=items, context={**CONTEXT, "words": None})
        rows = (2, 3) if isinstance(values[0], list) else (3, 2)
        assert (answer.status, answer.error) == (
            422,
            f"items, row {rows[0]}: {name} is a list, but in row {rows[1]} it is a single value; "
            "send lists in all rows, or in none",
        )


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
        "items: 'i1' occurs at positions 0 and 2, counted from 0; send every item once",
    )


def test_limits_of_the_body_and_of_candidates(client: Client, shared: Served) -> None:
    many = client.rank(items=list(range(101)))
    assert (many.status, many.error) == (422, "items: 101 candidates, expected 1 to 100; send several requests")
    none = client.rank(items=[])
    assert (none.status, none.error) == (422, "items: 0 candidates, expected 1 to 100")
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
        ("POST", "/v1/rank/", 404),
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
            try:
                raw.sendall(noise)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65_536):
                    pass
            except TimeoutError:
                raise  # a server that neither answers nor hangs up
            except OSError:
                pass  # it hung up, perhaps before all was sent: then there is nothing to shut down either
    assert client.rank().status == 200
