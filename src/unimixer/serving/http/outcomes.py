"""The route of outcomes: what units did, written to the database of events before the answer says so."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from unimixer.abtest.events import Events, now_us
from unimixer.abtest.records import Outcome, read_row
from unimixer.errors import UnimixerError, nearest
from unimixer.serving.engine import Engine
from unimixer.serving.errors import read_json
from unimixer.serving.http.common import check_key, deadline, read_body, reply
from unimixer.serving.http.openapi import OutcomesRequest, OutcomesWritten, answers, body


def add_routes(app: FastAPI, engine: Engine, events: Events) -> None:
    """Add the route of outcomes."""
    settings = engine.settings

    def write(data: bytes) -> dict[str, int]:
        rows = read_outcomes(read_json(data), now=now_us())
        added = events.add_outcomes(rows)
        return {"added": added, "repeated": len(rows) - added}

    @app.post(
        "/v1/outcomes",
        tags=["experiments"],
        openapi_extra=body(OutcomesRequest),
        responses=answers(OutcomesWritten, 400, 401, 408, 413, 422, 429, 503),
    )
    async def outcomes(request: Request) -> Response:
        """Add what units did; an event whose id is known is not added again."""
        check_key(request, settings.api_key, "API")
        engine.outcomes.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)
        begin = deadline(request, settings.timeout - settings.store_timeout)
        counts = await engine.outcomes.finish(lambda: write(data), begin)
        for result, count in counts.items():
            engine.metrics.outcomes.labels(result).inc(count)
        return reply(counts)


def read_outcomes(values: dict[str, Any], *, now: int) -> list[Outcome]:
    """Read the rows of a body; an event without a value counts 1, one without a time happened now.

    Raises:
        UnimixerError: which event has what mistake.
    """
    for name in values:
        if name != "events":
            raise UnimixerError(f"the body: unknown field {name!r}{nearest(name, ['events'])}")
    rows = values.get("events")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UnimixerError("events: expected a list of at least one object")
    read = []
    for number, row in enumerate(rows):
        where = f"events[{number}]"
        if "received" in row:
            raise UnimixerError(f"{where}: unknown field 'received'; the server writes when an event arrived")
        read.append(read_row(Outcome, row, where, {"value": 1.0, "time": now, "received": now}))
    return read
