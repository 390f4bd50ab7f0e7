"""Whatever the OpenAPI page allows, and whatever it does not: an answer or a refusal, never a failure."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import ADMIN_KEY, CONTEXT, Client, Served

NAMES = ("user", "items", "context", "rank_by", "user_id", "item_id", "age", "price", "picture", "tab", "position",
         "words", "time_ms", "interests", "inputs", "name", "shape", "datatype", "data", "rows", "events", "is_click",
         "user.ids", "candidates.ids", "words.offsets", "INT32", "FP32", "u3", "i1", "is_clik")  # fmt: skip
TEXT = st.sampled_from(NAMES) | st.text(max_size=8) | st.text(string.printable, max_size=8)
NUMBERS = (
    st.integers(-3, 100) | st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 1e308, 10**400, 1e18, 1e13])
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
BOUNDED = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def of_schema(schema: dict[str, Any], document: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that a JSON schema allows, and now and then one that it does not."""
    right = _of_schema(schema, document, depth)
    return st.integers(0, 19).flatmap(lambda n: ANYTHING if n == 0 else right)


def _of_schema(schema: dict[str, Any], document: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return of_schema(document["components"]["schemas"][name], document, depth)
    if "anyOf" in schema:
        return st.one_of([of_schema(option, document, depth) for option in schema["anyOf"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        fields = {name: of_schema(found, document, depth + 1) for name, found in schema["properties"].items()}
        needed = {name: fields.pop(name) for name in schema.get("required", [])}
        return st.fixed_dictionaries(needed, optional=fields)
    if kind == "object":
        inner = schema.get("additionalProperties")
        values = of_schema(inner, document, depth + 1) if isinstance(inner, dict) else ANYTHING
        return st.dictionaries(TEXT, values, max_size=5)
    if kind == "array":
        return st.lists(of_schema(schema.get("items", {}), document, depth + 1), max_size=6)
    plain = {"string": TEXT, "integer": st.integers(-5, 100), "number": NUMBERS, "boolean": st.booleans()}
    return plain.get(str(kind), LEAVES)


@pytest.fixture(scope="module")
def fuzzed(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server with a store of its own: what gets through is written."""
    store = shutil.copy(toy_features, tmp_path_factory.mktemp("fuzz") / "features.sqlite")
    with Served(bundles[0], store, "--max-candidates", "100") as served:
        yield served


@pytest.fixture(scope="module")
def document(fuzzed: Served) -> dict[str, Any]:
    client = fuzzed.client()
    found: dict[str, Any] = client.ask("GET", "/openapi.json").json
    client.close()
    return found


@pytest.fixture(scope="module")
def client(fuzzed: Served) -> Iterator[Client]:
    opened = fuzzed.client()
    yield opened
    opened.close()


def check(client: Client, method: str, path: str, body: bytes | None) -> int:
    answer = client.ask(method, path, body, {"X-API-Key": ADMIN_KEY})
    assert answer.status < 500, (path, body, answer.body)
    if answer.status >= 400:
        assert answer.error
    return answer.status


ROUTES = ("/v1/rank", "/v2/models/ranker/infer", "/admin/items", "/admin/users", "/admin/events")


@pytest.mark.parametrize("path", ROUTES)
def test_bodies_of_the_schema_never_make_the_server_fail(path: str, client: Client, document: dict[str, Any]) -> None:
    place = path.replace("ranker", "{name}")
    schema = document["paths"][place]["post"]["requestBody"]["content"]["application/json"]["schema"]
    statuses = set()

    @BOUNDED
    @given(of_schema(schema, document))
    def run(body: Any) -> None:
        statuses.add(check(client, "POST", path, json.dumps(body).encode()))

    run()
    assert 422 in statuses


def test_ranking_bodies_that_are_nearly_right_never_make_the_server_fail(client: Client) -> None:
    columns = st.dictionaries(st.sampled_from(NAMES), LEAVES | st.lists(LEAVES, max_size=4), max_size=3)
    keys = st.integers(0, 40).map(lambda n: f"i{n}") | st.integers(-5, 40) | TEXT
    statuses = set()

    @BOUNDED
    @given(
        user=st.none() | keys | columns,
        context=columns.map(lambda found: {**CONTEXT, **found}),
        items=st.lists(keys, min_size=1, max_size=5)
        | st.lists(columns.map(lambda found: {**found, "item_id": None}), min_size=1, max_size=4),
    )
    def run(user: Any, context: Any, items: Any) -> None:
        body = json.dumps({"user": user, "context": context, "items": items}).encode()
        statuses.add(check(client, "POST", "/v1/rank", body))

    run()
    assert {200, 422} <= statuses


def test_bytes_and_paths_never_make_the_server_fail(client: Client) -> None:
    letters = string.ascii_letters + string.digits + "/._-%?&=:@!$'()*+,;~"

    @BOUNDED
    @given(st.sampled_from(ROUTES), st.binary(max_size=60), st.text(letters, max_size=20))
    def run(path: str, body: bytes, tail: str) -> None:
        check(client, "POST", path, body)
        check(client, "GET", f"/{tail}", None)
        check(client, "GET", f"/v2/models/{tail}", None)

    run()
