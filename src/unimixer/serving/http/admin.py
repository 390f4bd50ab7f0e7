"""Change rows, events and the bundle of a running server, with an admin key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from fastapi import FastAPI, Request, Response

from unimixer.data.encoding.history import event_column
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError, nearest
from unimixer.serving.encoding.entity import EntityEncoder
from unimixer.serving.engine import Engine, Model
from unimixer.serving.errors import HTTPError, read_json
from unimixer.serving.http.common import check_key, deadline, read_body, reply
from unimixer.serving.http.openapi import (
    EventsRequest,
    EventsWritten,
    Reloaded,
    RowsRequest,
    Stopped,
    StopRequest,
    Written,
    answers,
    body,
)
from unimixer.serving.stores.base import Event, Kind
from unimixer.serving.stores.build import events_of
from unimixer.serving.stores.records import check_value, series_of

EVENT_ID = "event_id"
"""Column with the sender's id of an impression: an event that is repeated within a day is ignored."""
MAX_EVENT_ID = 200
"""Largest number of characters of such an id."""
REFUSALS = (400, 401, 403, 408, 413, 422, 429, 503)


def add_routes(app: FastAPI, engine: Engine) -> None:
    """Add the routes below ``/admin``."""
    settings = engine.settings

    def check(request: Request) -> None:
        if settings.admin_key is None:
            raise HTTPError(
                403, "the server has no admin key, so it accepts no changes over HTTP; start it with one to allow them"
            )
        check_key(request, settings.admin_key, "admin")

    async def write(request: Request, work: Callable[[Sequence[Model], dict[str, Any]], dict[str, int]]) -> Response:
        check(request)
        models = engine.in_service.all_models
        engine.updates.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)
        begin = deadline(request, settings.timeout - settings.store_timeout)
        return reply(await engine.updates.finish(lambda: work(models, read_json(data)), begin))

    @app.post("/admin/users", tags=["admin"], openapi_extra=body(RowsRequest), responses=answers(Written, *REFUSALS))
    async def users(request: Request) -> Response:
        """Add or change users; the next request uses them."""
        return await write(request, partial(put_rows, "users"))

    @app.post("/admin/items", tags=["admin"], openapi_extra=body(RowsRequest), responses=answers(Written, *REFUSALS))
    async def items(request: Request) -> Response:
        """Add or change items; the next request uses them."""
        return await write(request, partial(put_rows, "items"))

    @app.post(
        "/admin/events", tags=["admin"], openapi_extra=body(EventsRequest), responses=answers(EventsWritten, *REFUSALS)
    )
    async def events(request: Request) -> Response:
        """Add impressions; the next request uses them in its histories."""
        return await write(request, append_events)

    @app.post("/admin/reload", tags=["admin"], responses=answers(Reloaded, 401, 403, 409, 422, 503))
    async def reload(request: Request) -> Response:
        """Load the bundle at the server's path again, warm it up and serve it."""
        check(request)
        version = await asyncio.to_thread(engine.load)
        return reply({"model_version": version})

    if settings.experiments:

        @app.post(
            "/admin/stop-experiment",
            tags=["experiments"],
            openapi_extra=body(StopRequest),
            responses=answers(Stopped, 400, 401, 403, 408, 413, 422, 503),
        )
        async def stop_experiment(request: Request) -> Response:
            """Stop an experiment for good: everyone gets the bundle of the server, and no exposure is logged."""
            check(request)
            _ = engine.in_service  # before the first load no experiment is known, and 503 says so
            values = read_json(await read_body(request, settings.max_body, settings.timeout))
            name = values.get("experiment")
            if set(values) != {"experiment"} or not isinstance(name, str):
                raise UnimixerError("the body: expected the field 'experiment' with the name of one, and no other")
            await asyncio.to_thread(engine.experiments.stop, name)
            return reply({"experiment": name, "stopped": True})


def put_rows(kind: Kind, models: Sequence[Model], values: dict[str, Any]) -> dict[str, int]:
    """Write rows to the store, after checking that every bundle in service can encode them."""
    rows = _rows(values, "rows")
    encoders = [model.encoder.users if kind == "users" else model.encoder.items for model in models]
    key = encoders[0].key  # all bundles have the same
    if key is None:
        raise UnimixerError(f"this model has no key of {kind}, so it reads none from the store")
    store = models[0].encoder.store
    known = {*store.columns(kind)}.union(*(encoder.columns for encoder in encoders))
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in known:
                raise UnimixerError(f"{kind}[{number}]: unknown column {name!r}{nearest(name, known)}")
            check_value(value, f"{kind}[{number}].{name}")
    for encoder in encoders:
        _check_encodable(encoder, rows)
    return {"rows": len(rows), "revision": store.put(kind, key, rows)}


def _check_encodable(encoder: EntityEncoder, rows: Sequence[dict[str, Any]]) -> None:
    """Encode rows once and discard the result, so that invalid values are refused before they are stored."""
    names = sorted(encoder.columns)
    frame = pl.DataFrame([series_of(name, [row.get(name) for row in rows], encoder.kind) for name in names])
    chunk = Chunk(frame, encoder.kind)
    encoder.encode(chunk, np.zeros(len(rows), dtype=np.int64).tolist())
    encoder.snapshot(chunk)


def append_events(models: Sequence[Model], values: dict[str, Any]) -> dict[str, int]:
    """Add impressions to the histories that use them; return the numbers of added and of repeated events."""
    model = models[0]  # its histories have the events of every bundle in service
    rows, ids = _rows(values, "events"), None
    schema = model.bundle.transform.schema
    names, known = _names(schema), event_columns(model)
    if EVENT_ID not in names:
        ids = _ids(rows)
        rows = [{name: value for name, value in row.items() if name != EVENT_ID} for row in rows]
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in known:
                raise UnimixerError(f"events[{number}]: unknown column {name!r}{nearest(name, known)}")
            check_value(value, f"events[{number}].{name}")
        for name in names[:2]:
            if row.get(name) is None:
                raise UnimixerError(f"events[{number}]: {name} is missing; an event needs a user and an item")
    events = _events(schema, names, rows, ids)
    added = model.encoder.store.append_events(events)
    return {"events": added, **({"repeated": len(events) - added} if ids else {})}


def event_columns(model: Model) -> set[str]:
    """Return the columns that an event may have."""
    schema = model.bundle.transform.schema
    return {*_names(schema), EVENT_ID} | ({schema.keys.time} if schema.keys.time else set())


def _names(schema: Schema) -> list[str]:
    """Return the columns that turn impressions into events, except the time; user and item come first."""
    needed = [schema.keys.user, schema.keys.item, *(event_column(h, schema) for h in schema.histories)]
    return [name for name in dict.fromkeys(needed) if name is not None]


def _ids(rows: Sequence[dict[str, Any]]) -> list[str | None] | None:
    """Return the ids of events, or None if no event has one."""
    ids = [row.get(EVENT_ID) for row in rows]
    first: dict[str, int] = {}
    for number, event_id in enumerate(ids):
        if event_id is None:
            continue
        check_value(event_id, f"events[{number}].{EVENT_ID}")
        if not isinstance(event_id, str) or not 1 <= len(event_id) <= MAX_EVENT_ID:
            raise UnimixerError(f"events[{number}].{EVENT_ID}: expected a text of 1 to {MAX_EVENT_ID} characters")
        if first.setdefault(event_id, number) != number:
            raise UnimixerError(
                f"events[{number}].{EVENT_ID}: events[{first[event_id]}] has the same id; give every event its own"
            )
    return ids if first else None


def _events(
    schema: Schema, names: Sequence[str], rows: Sequence[dict[str, Any]], ids: Sequence[str | None] | None
) -> list[Event]:
    columns = [series_of(name, [row.get(name) for row in rows], "events") for name in names]
    now = time.time()
    if schema.keys.time is None:
        return list(events_of(schema, Chunk(pl.DataFrame(columns), "events"), int(now * 1000), ids))
    times = [row.get(schema.keys.time) for row in rows]
    if all(value is None for value in times):
        stamp = datetime.fromtimestamp(now, tz=UTC)
        columns.append(pl.Series(schema.keys.time, [stamp] * len(rows), dtype=pl.Datetime("ms", "UTC")))
    else:
        columns.append(series_of(schema.keys.time, times, "events"))
    return list(events_of(schema, Chunk(pl.DataFrame(columns), "events"), ids=ids))


def _rows(values: dict[str, Any], field: str) -> list[dict[str, Any]]:
    for name in values:
        if name != field:
            raise UnimixerError(f"the body: unknown field {name!r}{nearest(name, [field])}")
    rows = values.get(field)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UnimixerError(f"{field}: expected a list of at least one object")
    return rows
