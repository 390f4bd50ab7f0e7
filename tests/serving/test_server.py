"""A real server: scores, request ids, counters, its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
from served import CONTEXT, Client, Served
from toy import DAY, START

from unimixer.bundles import open_bundle
from unimixer.data.raw.tables import Chunk
from unimixer.predictor import Predictor
from unimixer.training.run import RunFolder

NOW = START + 9 * DAY


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
        ('unimixer_unknown_values_total{feature="user_id"}', 1),
        ('unimixer_feature_values_total{feature="user_id"}', 1),
        ('unimixer_unknown_values_total{feature="item_id"}', 2),
        ('unimixer_feature_values_total{feature="item_id"}', 3),
        ('unimixer_unknown_values_total{feature="category"}', 0),  # an unknown item has none: that is missing
        ('unimixer_feature_values_total{feature="category"}', 3),
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


def test_the_openapi_page_takes_the_columns_that_the_server_takes(client: Client) -> None:
    schemas = client.ask("GET", "/openapi.json").json["components"]["schemas"]
    fields = schemas["RankRequest"]["properties"]
    assert (fields["items"]["minItems"], fields["items"]["maxItems"]) == (1, 100)
    (user,) = [option for option in fields["user"]["anyOf"] if option.get("type") == "object"]
    (item,) = [option for option in fields["items"]["items"]["anyOf"] if option.get("type") == "object"]
    assert {user["additionalProperties"], item["additionalProperties"], fields["context"]["additionalProperties"]} == {
        False
    }
    assert {"tab", "position", "words", "time_ms"} <= set(fields["context"]["properties"])
    context = {**dict.fromkeys(fields["context"]["properties"]), **CONTEXT}
    rank = client.rank(dict.fromkeys(user["properties"]), [dict.fromkeys(item["properties"])], context=context)
    assert rank.status == 200, rank.body
    event = schemas["EventsRequest"]["properties"]["events"]
    assert event["minItems"] == 1
    assert set(event["items"]["properties"]) == {"user_id", "item_id", "time_ms", "is_click", "event_id"}
    assert event["items"]["additionalProperties"] is False


def test_answers_have_the_content_type_of_the_openapi_page(client: Client) -> None:
    for path, methods in client.ask("GET", "/openapi.json").json["paths"].items():
        if "get" in methods:
            answer = client.ask("GET", path.replace("{name}", "ranker"))
            (documented,) = methods["get"]["responses"]["200"]["content"]
            assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, documented), path
