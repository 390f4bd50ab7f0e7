"""The bodies of requests and answers as the OpenAPI page shows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from unimixer.serving.stores.records import MAX_KEY, MAX_LIST, MAX_TEXT

Key = Annotated[str, Field(max_length=MAX_KEY)] | Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Scalar = Text | int | float | bool | None
Entries = Field(max_length=MAX_LIST)
Row = dict[str, Scalar | Annotated[list[str], Entries] | Annotated[list[float], Entries]]
"""Raw columns by name, as the log or the tables have them; null where a value is not known."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RankRequest(_Document):
    """Which user, in which context, which items."""

    user: Key | Row | None = None
    """Key of the user; or an object with the key and raw columns that win over stored ones."""
    context: Row = {}
    """Raw columns of the impression, the same for all items; its time is now where it is not given."""
    items: Annotated[list[Key | Row], Field(min_length=1)]
    """Keys of the candidates; or objects with the key and raw columns of their own."""
    rank_by: str | None = None
    """Task of the ranking (default: the first)."""


class ModelFacts(_Document):
    """The model that answered."""

    name: str
    version: str


class UnknownFacts(_Document):
    """What the store does not have."""

    user: bool
    items: int


class RankResponse(_Document):
    """Scores in the order of the items."""

    request_id: str
    model: ModelFacts
    scores: dict[str, list[float]]
    """Probabilities of every task."""
    ranking: list[int]
    """Positions of the items, counted from 0, best first."""
    unknown: UnknownFacts


class Error(_Document):
    """Why there is no answer."""

    error: str
    """One sentence."""
    request_id: str


class RowsRequest(_Document):
    """Rows to add or to change; columns that are not given keep their values."""

    rows: Annotated[list[Row], Field(min_length=1)]
    """Columns that the store has or the model reads; others are refused."""


class EventsRequest(_Document):
    """Impressions that happened, with the columns of the log that histories read."""

    events: Annotated[list[Row], Field(min_length=1)]
    """``event_id``, a text of the sender's, makes an event that is sent again within a day known."""


class Written(_Document):
    """What was written."""

    rows: int
    revision: int


class EventsWritten(_Document):
    """What was added."""

    events: int
    repeated: int | None = None
    """Events that were known by their id, where any had one."""


class Live(_Document):
    """The process answers."""

    live: bool


class Ready(_Document):
    """Requests are answered."""

    ready: bool
    model_version: str


class Reloaded(_Document):
    """The bundle in service."""

    model_version: str


class Tensor(_Document):
    """A tensor of the open inference protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class InferRequest(_Document):
    """Encoded features, as Triton takes them from the same bundle."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = None


MODELS = (RankRequest, RankResponse, Error, RowsRequest, EventsRequest, Written, EventsWritten, InferRequest, Live,
          Ready, Reloaded)  # fmt: skip
METRICS = "text/plain; version=0.0.4"


def schemas(columns: Mapping[str, Collection[str]], max_candidates: int) -> dict[str, Any]:
    """The JSON schemas of all bodies.

    Args:
        columns: those of the model in service by field; nothing else is taken there.
        max_candidates: items of a request.
    """
    _, found = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = found["$defs"]
    definitions["RankRequest"]["properties"]["items"]["maxItems"] = max_candidates
    for name in ("RankRequest", "EventsRequest"):
        for field, known in columns.items():
            _close(definitions[name]["properties"].get(field, {}), known)
    return definitions


def _close(schema: dict[str, Any], columns: Collection[str]) -> None:
    """Let the objects of a schema have these columns and no others."""
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        schema.update(properties=dict.fromkeys(sorted(columns), inner), additionalProperties=False)
    for option in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        _close(option, columns)


def body(model: type[BaseModel]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(model)}}}}


def answers(model: type[BaseModel] | None, *codes: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route."""
    texts = {
        400: "The body is not JSON",
        401: "The key is missing or wrong",
        403: "The server was started without a key for this",
        404: "There is no such thing",
        408: "The body did not arrive in time",
        409: "Another swap is running",
        413: "The body is too large",
        422: "A field, a column or a value does not fit",
        429: "Too many requests wait",
        503: "Not ready, no answer in time, or the store is down",
    }
    found: dict[int | str, dict[str, Any]] = {
        code: {"description": texts[code], "content": {"application/json": {"schema": _ref(Error)}}} for code in codes
    }
    if model is None:
        found[200] = {"description": "Done", "content": {"application/json": {"schema": {"type": "object"}}}}
    else:
        found[200] = {"description": "Done", "content": {"application/json": {"schema": _ref(model)}}}
    return found


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
