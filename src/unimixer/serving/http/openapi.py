"""Describe the bodies of requests and answers for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from unimixer.abtest.records import MAX_TEXT as MAX_ID
from unimixer.serving.stores.records import MAX_KEY, MAX_LIST, MAX_TEXT

Key = Annotated[str, Field(max_length=MAX_KEY)] | Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID)] | Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Scalar = Text | int | float | bool | None
Entries = Field(max_length=MAX_LIST)
Row = dict[str, Scalar | Annotated[list[str], Entries] | Annotated[list[float], Entries]]
"""Raw columns by name, with the values of the log or the tables; null for an unknown value."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RankRequest(_Document):
    """Ask for the scores of items for a user in a context."""

    user: Key | Row | None = None
    """Key of the user, or an object with the key and raw columns that override the stored ones."""
    context: Row = {}
    """Raw columns of the impression, shared by all items; the default of the time is now."""
    items: Annotated[list[Key | Row], Field(min_length=1)]
    """Keys of the candidates, or objects with the key and raw columns that override the stored ones."""
    rank_by: str | None = None
    """Task to rank by (default: the first)."""


class ModelFacts(_Document):
    """Identify the model that answered."""

    name: str
    version: str


class UnknownFacts(_Document):
    """Count the keys that the store lacks."""

    user: bool
    items: int


class ExperimentFacts(_Document):
    """Identify the arm of an experiment."""

    name: str
    version: int
    arm: str


class RankResponse(_Document):
    """Return the scores in the order of the items."""

    request_id: str
    model: ModelFacts
    scores: dict[str, list[float]]
    """Probabilities by task."""
    ranking: list[int]
    """Positions of the items, counted from 0, best first."""
    unknown: UnknownFacts
    experiment: ExperimentFacts | None = None
    """Arm of the user; absent if the request takes part in no experiment."""


class OutcomeRow(_Document):
    """Tell what a unit did."""

    event_id: Id
    """Id of the sender: an event that is sent again with its id is one event."""
    unit: Id
    """Id that the experiment assigns, for example the key of the user."""
    event: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    """Name of the event, as in the metrics of a specification."""
    value: float | None = None
    """Size of the event (default: 1)."""
    time: Annotated[int, Field(ge=0)] | Text | None = None
    """Microseconds since 1970, or a text of ISO 8601, in UTC without a zone (default: now)."""
    request_id: Id | None = None
    """Id of the ranking request that led to the event."""
    item: Id | None = None


class OutcomesRequest(_Document):
    """Add what units did."""

    events: Annotated[list[OutcomeRow], Field(min_length=1)]


class OutcomesWritten(_Document):
    """Report new events, and events whose id was known; all of them are in the database."""

    added: int
    repeated: int


class StopRequest(_Document):
    """Name the experiment to stop."""

    experiment: str


class Stopped(_Document):
    """Report the stopped experiment."""

    experiment: str
    stopped: bool


class Error(_Document):
    """Explain a refusal."""

    error: str
    """One sentence."""
    request_id: str


class RowsRequest(_Document):
    """Add or change rows; absent columns keep their values."""

    rows: Annotated[list[Row], Field(min_length=1)]
    """Columns of the store or of the model; others are refused."""


class EventsRequest(_Document):
    """Add impressions, with the log columns that histories read."""

    events: Annotated[list[Row], Field(min_length=1)]
    """An event whose ``event_id`` was already sent within a day is ignored."""


class Written(_Document):
    """Report written rows."""

    rows: int
    revision: int


class EventsWritten(_Document):
    """Report added events."""

    events: int
    repeated: int | None = None
    """Number of events whose id was known; absent if no event has an id."""


class Live(_Document):
    """Report that the process answers."""

    live: bool


class Ready(_Document):
    """Report that the server answers ranking requests."""

    ready: bool
    model_version: str


class Reloaded(_Document):
    """Report the bundle that is now served."""

    model_version: str


class Tensor(_Document):
    """Describe a tensor of the open inference protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class InferRequest(_Document):
    """Ask for the scores of encoded features, in the form that Triton reads for the same bundle."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = None


MODELS = (RankRequest, RankResponse, Error, RowsRequest, EventsRequest, Written, EventsWritten, InferRequest, Live,
          Ready, Reloaded, OutcomesRequest, OutcomesWritten, StopRequest, Stopped)  # fmt: skip
METRICS = "text/plain; version=0.0.4"


def schemas(columns: Mapping[str, Collection[str]], max_candidates: int) -> dict[str, Any]:
    """Return the JSON schemas of all bodies.

    Args:
        columns: allowed columns of the served model, by field of a body.
        max_candidates: largest number of items of a request.
    """
    _, document = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = document["$defs"]
    definitions["RankRequest"]["properties"]["items"]["maxItems"] = max_candidates
    for name in ("RankRequest", "EventsRequest"):
        for field, known in columns.items():
            _close(definitions[name]["properties"].get(field, {}), known)
    return definitions


def _close(schema: dict[str, Any], columns: Collection[str]) -> None:
    """Restrict the objects of a schema to the given columns."""
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        schema.update(properties=dict.fromkeys(sorted(columns), inner), additionalProperties=False)
    for option in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        _close(option, columns)


def body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that reads its own body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(model)}}}}


def answers(model: type[BaseModel] | None, *codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route."""
    texts = {
        400: "The body is not JSON",
        401: "The key is missing or wrong",
        403: "The server has no admin key",
        404: "The path or the model does not exist",
        408: "The body did not arrive in time",
        409: "Another reload is running",
        413: "The body is too large",
        422: "A field, a column or a value is invalid",
        429: "Too many requests are in flight",
        503: "The server is not ready, ran out of time, or cannot reach the feature store",
    }
    responses: dict[int | str, dict[str, Any]] = {
        code: {"description": texts[code], "content": {"application/json": {"schema": _ref(Error)}}} for code in codes
    }
    if model is None:
        responses[200] = {"description": "Done", "content": {"application/json": {"schema": {"type": "object"}}}}
    else:
        responses[200] = {"description": "Done", "content": {"application/json": {"schema": _ref(model)}}}
    return responses


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
