"""Serve the open inference protocol, version 2: encoded tensors with the names of the exported graph."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray

from unimixer.bundles.graph import CANDIDATES, USER, Input, signature
from unimixer.errors import UnimixerError, nearest
from unimixer.features.batch import Batch
from unimixer.features.request import Request as Ranking
from unimixer.serving.encoding.parse_request import check_candidates
from unimixer.serving.engine import Engine, Scorer
from unimixer.serving.errors import HTTPError, read_json
from unimixer.serving.http.common import check_key, deadline, read_body, reply
from unimixer.serving.http.openapi import InferRequest, answers, body

OUTPUT = "probabilities"
_DATATYPES = {"int32": "INT32", "int64": "INT64", "float32": "FP32"}
_INFER_FIELDS = ("id", "inputs", "outputs", "parameters")
_TENSOR_FIELDS = ("name", "shape", "datatype", "data", "parameters")


def add_routes(app: FastAPI, engine: Engine) -> None:
    """Add the routes below ``/v2``."""
    settings = engine.settings

    def check_name(name: str) -> None:
        if name != settings.name:
            raise HTTPError(404, f"unknown model {name[:60]!r}{nearest(name[:60], [settings.name])}")

    @app.get("/v2", tags=["open inference protocol"], responses=answers(None))
    async def server() -> Response:
        """Return the name and the version of the server."""
        return reply({"name": "unimixer", "version": version("unimixer"), "extensions": []})

    @app.get("/v2/health/live", tags=["open inference protocol"], responses=answers(None))
    async def live() -> Response:
        """Report that the process answers."""
        return reply({"live": True})

    @app.get("/v2/health/ready", tags=["open inference protocol"], responses=answers(None, 503))
    async def ready() -> Response:
        """Report whether a warmed-up bundle is served and the feature store has data."""
        await engine.check_ready()
        return reply({"ready": True})

    @app.get("/v2/models/{name}", tags=["open inference protocol"], responses=answers(None, 404, 503))
    async def model(name: str) -> Response:
        """Return the inputs and outputs of the model."""
        check_name(name)
        bundle = engine.model.bundle
        inputs = [
            {"name": tensor.name, "datatype": _DATATYPES[tensor.dtype], "shape": _shape(tensor)}
            for tensor in _inputs(bundle)
        ]
        output = {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(bundle.tasks)]}
        facts = {"name": name, "versions": [bundle.version], "platform": "unimixer"}
        return reply({**facts, "inputs": inputs, "outputs": [output], "parameters": {"tasks": list(bundle.tasks)}})

    @app.get("/v2/models/{name}/ready", tags=["open inference protocol"], responses=answers(None, 404, 503))
    async def model_ready(name: str) -> Response:
        """Report whether the model answers."""
        check_name(name)
        await engine.check_ready()
        return reply({"name": name, "ready": True})

    @app.post(
        "/v2/models/{name}/infer",
        tags=["open inference protocol"],
        openapi_extra=body(InferRequest),
        responses=answers(None, 400, 401, 404, 408, 413, 422, 429, 503),
    )
    async def infer(name: str, request: Request) -> Response:
        """Score encoded tensors."""
        check_name(name)
        check_key(request, settings.api_key, "API")
        bundle = engine.model.bundle
        engine.requests.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)

        def work() -> tuple[Any, NDArray[np.float32]]:
            values = read_json(data)
            ranking = read_request(values, bundle, max_candidates=settings.max_candidates)
            request.state.candidates, request.state.model_version = len(ranking), bundle.version
            return values.get("id"), bundle.score(ranking)

        call_id, scores = await engine.requests.run(work, deadline(request, settings.timeout))
        output = {"name": OUTPUT, "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel()}
        return reply(
            {
                "model_name": name,
                "model_version": bundle.version,
                "id": request.state.request_id if call_id is None else call_id,
                "outputs": [output],
            }
        )


def read_request(values: dict[str, Any], bundle: Scorer, *, max_candidates: int) -> Ranking:
    """Read the tensors of an inference request.

    Raises:
        UnimixerError: a tensor is missing or unknown, or lacks the shape or type of the graph's input.
    """
    for name in values:
        if name not in _INFER_FIELDS:
            raise UnimixerError(f"the body: unknown field {name!r}{nearest(name, _INFER_FIELDS)}")
    if not isinstance(values.get("id", ""), (str, type(None))):
        raise UnimixerError("id: expected text")
    _check_outputs(values.get("outputs"))
    expected, tensors = {tensor.name: tensor for tensor in _inputs(bundle)}, values.get("inputs")
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise UnimixerError("inputs: expected a list of tensors")
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        name = tensor.get("name")
        if not isinstance(name, str) or name not in expected:
            raise UnimixerError(f"inputs: unknown tensor {name!r:.80}{nearest(str(name), expected)}")
        if name in arrays:
            raise UnimixerError(f"inputs: {name} occurs twice; send every tensor once")
        arrays[name] = _array(tensor, expected[name])
    for name in expected:
        if name not in arrays:
            raise UnimixerError(f"inputs: {name} is missing; GET /v2/models/NAME lists the inputs")
    return _ranking(arrays, bundle, max_candidates)


def _ranking(arrays: dict[str, NDArray[Any]], bundle: Scorer, max_candidates: int) -> Ranking:
    layout = bundle.layout
    counts = [len(arrays[n]) for n in (f"{CANDIDATES}.sparse_ids", f"{CANDIDATES}.dense_features") if n in arrays]
    rows = (
        counts[0]
        if counts
        else max((len(a) - 1 for n, a in arrays.items() if n.endswith(".sequence_offsets")), default=1)
    )
    check_candidates("inputs", rows, max_candidates)
    sides = {}
    for side, n in ((USER, 1), (CANDIDATES, rows)):
        groups = [g for g in bundle.transform.spec_groups if (g in layout.user_groups) == (side == USER)]
        values = {group: torch.from_numpy(arrays[f"{group}.sequence_values"]) for group in groups}
        offsets = {
            group: torch.tensor([0, len(values[group])])
            if side == USER
            else torch.from_numpy(arrays[f"{group}.sequence_offsets"])
            for group in groups
        }
        for group in groups:
            _check_offsets(group, offsets[group], len(values[group]), n)
        ids = arrays.get(f"{side}.sparse_ids", np.zeros((n, 0), dtype=np.int32))
        dense = arrays.get(f"{side}.dense_features", np.zeros((n, 0), dtype=np.float32))
        for name, array in (("sparse_ids", ids), ("dense_features", dense)):
            if len(array) != n:
                raise UnimixerError(f"inputs: {side}.{name} has {len(array)} rows, expected {n}")
        sides[side] = Batch(torch.from_numpy(ids), torch.from_numpy(dense), values, offsets)
    return Ranking(user=sides[USER], candidates=sides[CANDIDATES])


def _check_offsets(group: str, offsets: torch.Tensor, values: int, rows: int) -> None:
    if len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != values or bool((offsets.diff() < 0).any()):
        raise UnimixerError(f"inputs: {group}.sequence_offsets must be {rows + 1} ascending numbers from 0 to {values}")


def _array(tensor: dict[str, Any], expected: Input) -> NDArray[Any]:
    name = expected.name
    for field in tensor:
        if field not in _TENSOR_FIELDS:
            raise UnimixerError(f"{name}: unknown field {field!r}{nearest(field, _TENSOR_FIELDS)}")
    datatype, data = tensor.get("datatype"), tensor.get("data")
    shape: Any = tensor.get("shape")
    if datatype != _DATATYPES[expected.dtype]:
        raise UnimixerError(f"{name}: the datatype is {datatype!r:.40}, expected {_DATATYPES[expected.dtype]}")
    pattern = _shape(expected)
    whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or len(shape) != len(pattern) or any(p not in (-1, n) for p, n in zip(pattern, shape, strict=True)):
        raise UnimixerError(f"{name}: the shape is {shape!r:.60}, expected {pattern} (-1 is any number)")
    flat = _flat(data, name)
    if len(flat) != math.prod(shape):
        raise UnimixerError(
            f"{name}: the data has {len(flat):,} values, but the shape {shape} needs {math.prod(shape):,}"
        )
    return _typed(flat, expected).reshape(shape)


def _flat(data: Any, name: str) -> list[Any]:
    """Flatten values in row order; the protocol allows nested lists, too."""
    if not isinstance(data, list):
        raise UnimixerError(f"{name}: data must be a list")
    while data and all(isinstance(entry, list) for entry in data):
        data = [value for entry in data for value in entry]
    return list(data)


def _typed(flat: list[Any], expected: Input) -> NDArray[Any]:
    """Convert numbers to the type of the graph's input; null is an unknown number."""
    if expected.dtype == "float32":
        if not all(value is None or (type(value) in (int, float) and abs(value) < 3e38) for value in flat):
            raise UnimixerError(f"{expected.name}: expected finite numbers, or null for an unknown one")
        return np.asarray([math.nan if value is None else value for value in flat], dtype=np.float32)
    limit = np.iinfo(expected.dtype).max
    if not all(type(value) is int and 0 <= value <= limit for value in flat):
        raise UnimixerError(f"{expected.name}: expected integers from 0 to {limit}")
    return np.asarray(flat, dtype=expected.dtype)


def _check_outputs(outputs: Any) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise UnimixerError("outputs: expected a list of objects")
    for output in outputs:
        if output.get("name") != OUTPUT:
            raise UnimixerError(f"outputs: unknown output {output.get('name')!r:.80}{nearest(OUTPUT, [OUTPUT])}")


def _inputs(bundle: Scorer) -> tuple[Input, ...]:
    return signature(bundle.transform.spec, bundle.layout)


def _shape(tensor: Input) -> list[int]:
    first = 1 if tensor.rows == 1 else -1
    return [first] if tensor.width is None else [first, tensor.width]
