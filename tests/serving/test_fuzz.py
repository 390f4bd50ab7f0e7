"""Whatever the OpenAPI page allows, and whatever it does not: an answer or a refusal, never a failure."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from arm_cases import always, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import ADMIN_KEY, CONTEXT, Client, Served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
NAMES = ("user", "items", "context", "rank_by", "user_id", "item_id", "age", "price", "picture", "tab", "position",
         "words", "time_ms", "interests", "inputs", "user.sparse_ids", "candidates.sparse_ids",
         "is_click", "u3", "i1")  # fmt: skip
TEXT = st.sampled_from(NAMES) | st.text(max_size=8) | st.text(string.printable, max_size=8)
NUMBERS = (
    st.integers(-3, 100) | st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 1e308, 10**400, 1e18, 1e13])
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
BOUNDED = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
ROUTES = ("/v1/rank", "/v1/outcomes", "/v2/models/{name}/infer", "/admin/items", "/admin/users", "/admin/events",
          "/admin/stop-experiment")  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server with a store of its own: what gets through is written."""
    folder = tmp_path_factory.mktemp("fuzz")
    store = shutil.copy(toy_features, folder / "features.sqlite")
    file = written(folder, always(arms={"old": {}, "new": {"bundle": str(bundles[1])}}, segments=["country"]))
    experiment = ("--experiment", str(file), "--database", f"sqlite:///{folder / 'events.sqlite'}")
    with Served(bundles[0], store, "--max-candidates", "100", *experiment) as served:
        yield served


@pytest.fixture(scope="module")
def document(fuzzed: Served) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{fuzzed.port}/openapi.json")


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


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_to_a_generated_request_is_one_that_the_page_describes(
    path: str, mode: GenerationMode, document: Any
) -> None:
    statuses = set()

    @BOUNDED
    @given(document[path]["POST"].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if case.path_parameters:
            case.path_parameters["name"] = "ranker"
        status = case.call_and_validate(checks=CHECKS, headers={"X-API-Key": ADMIN_KEY}).status_code
        assert mode is GenerationMode.POSITIVE or 400 <= status < 500, case.body
        statuses.add(status)

    run()
    assert 422 in statuses


def test_ranking_bodies_that_are_nearly_right_never_make_the_server_fail(client: Client) -> None:
    columns = st.dictionaries(st.sampled_from(NAMES), LEAVES | st.lists(LEAVES, max_size=4), max_size=3)
    keys = st.integers(0, 40).map(lambda n: f"i{n}") | st.integers(-5, 40) | TEXT
    statuses = set()

    @BOUNDED
    @given(
        user=st.none() | keys | columns,
        context=columns.map(lambda some: {**CONTEXT, **some}),
        items=st.lists(keys, min_size=1, max_size=5)
        | st.lists(columns.map(lambda some: {**some, "item_id": None}), min_size=1, max_size=4),
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
        check(client, "POST", path.replace("{name}", "ranker"), body)
        check(client, "GET", f"/{tail}", None)
        check(client, "GET", f"/v2/models/{tail}", None)

    run()
