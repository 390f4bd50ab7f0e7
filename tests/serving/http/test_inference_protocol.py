"""The open inference protocol of a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Client

from unimixer.bundles import open_bundle


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
        ({"inputs": []}, "inputs: user.sparse_ids is missing; GET /v2/models/NAME lists the inputs"),
        (
            {"inputs": [{"name": "user.sparse_id"}]},
            "inputs: unknown tensor 'user.sparse_id'; did you mean 'user.sparse_ids'?",
        ),
        (
            {"inputs": [{"name": "user.sparse_ids", "datatype": "FP32"}]},
            "user.sparse_ids: the datatype is 'FP32', expected INT32",
        ),
        (
            {"inputs": [{"name": "user.sparse_ids", "datatype": "INT32", "shape": [2, 1], "data": [1, 2]}]},
            "user.sparse_ids: the shape is [2, 1], expected [1, 1] (-1 is any number)",
        ),
        (
            {"inputs": [{"name": "user.sparse_ids", "datatype": "INT32", "shape": [1, 1], "data": [-1]}]},
            "user.sparse_ids: expected integers from 0 to 2147483647",
        ),
        (
            {"inputs": [{"name": "user.sparse_ids", "datatype": "INT32", "shape": [1, 1], "data": [1, 2]}]},
            "user.sparse_ids: the data has 2 values, but the shape [1, 1] needs 1",
        ),
        (
            {
                "inputs": [
                    {"name": "candidates.dense_features", "datatype": "FP32", "shape": [1, 5], "data": ["1.5"] * 5}
                ]
            },
            "candidates.dense_features: expected finite numbers, or null for an unknown one",
        ),
        ({"id": 7, "inputs": []}, "id: expected text"),
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
