"""The routes of the server."""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from unimixer.errors import UnimixerError
from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.encoding.request import RankCall
from unimixer.serving.engine import Engine, Model, Ranked
from unimixer.serving.errors import RefusedError, read_json, refusal
from unimixer.serving.http import admin
from unimixer.serving.http import open_inference as protocol
from unimixer.serving.http.common import check_key, deadline, read_body, refused, reply
from unimixer.serving.http.openapi import METRICS, Live, RankRequest, RankResponse, Ready, answers, body, schemas
from unimixer.serving.prediction_log.writer import Answer, ScoreLog, answer_time

TITLE = "unimixer ranking server"


def make_app(engine: Engine, score_log: ScoreLog | None) -> FastAPI:
    """The application around an engine.

    Args:
        engine: the model in service.
        score_log: where answers are written.
    """
    # its page brings its own script: a server often stands where no content network can be reached
    app = FastAPIOffline(redoc_url=None, title=TITLE, version=version("unimixer"))
    _refusals(app)
    _health(app, engine)
    _rank(app, engine, score_log)
    admin.add_routes(app, engine)
    protocol.add_routes(app, engine)

    def document() -> dict[str, Any]:
        model = engine.model if engine.ready else None
        shown = None if model is None else model.bundle.version
        if app.openapi_schema is None or app.openapi_schema["info"].get("x-model-version") != shown:
            columns = {} if model is None else model.reader.columns | {"events": admin.event_columns(model)}
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            found["info"]["x-model-version"] = shown
            shapes = found.setdefault("components", {}).setdefault("schemas", {})
            shapes |= schemas(columns, engine.settings.max_candidates)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


def _refusals(app: FastAPI) -> None:
    async def mistake(request: Request, error: Exception) -> Response:
        assert isinstance(error, UnimixerError)
        return refused(request, refusal(error))

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        texts = {404: "there is no such path; GET /docs lists them", 405: "this path is not for this method"}
        answer = refused(request, RefusedError(error.status_code, texts.get(error.status_code, str(error.detail))))
        answer.headers.update(error.headers or {})
        return answer

    async def failure(request: Request, error: Exception) -> Response:
        return refused(request, RefusedError(500, "the server failed on this request; its log says where"))

    app.add_exception_handler(UnimixerError, mistake)
    app.add_exception_handler(Exception, failure)
    app.add_exception_handler(HTTPException, no_route)


def _health(app: FastAPI, engine: Engine) -> None:
    @app.get("/health/live", tags=["health"], responses=answers(Live))
    async def live() -> Response:
        """The process answers."""
        return reply({"live": True})

    @app.get("/health/ready", tags=["health"], responses=answers(Ready, 503))
    async def ready() -> Response:
        """A warmed-up bundle is in service, and the feature store holds data."""
        await engine.check_ready()
        return reply({"ready": True, "model_version": engine.model.bundle.version})

    text = {200: {"description": "Counters", "content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", tags=["health"], responses=text, response_class=PlainTextResponse)  # type: ignore[arg-type]
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(engine.metrics.text(), media_type=METRICS)


def _rank(app: FastAPI, engine: Engine, score_log: ScoreLog | None) -> None:
    settings, log = engine.settings, None if score_log is None else score_log.add_later

    @app.post(
        "/v1/rank",
        tags=["ranking"],
        openapi_extra=body(RankRequest),
        responses=answers(RankResponse, 400, 401, 408, 413, 422, 429, 503),
    )
    async def rank(request: Request) -> Response:
        """Score candidates for a user."""
        check_key(request, settings.api_key, "API")
        model = engine.model
        engine.requests.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)

        def work() -> tuple[RankCall, int, Ranked]:
            call, task = model.reader.read(read_json(data), now=int(time.time() * 1000))
            request.state.candidates, request.state.model_version = len(call.items), model.bundle.version
            engine.metrics.candidates.observe(len(call.items))
            return call, task, engine.rank(model, call)

        call, task, found = await engine.requests.run(work, deadline(request, settings.timeout))
        encoded, tasks = found.encoded, model.bundle.tasks
        unknown_user = encoded.user is not None and encoded.user_revision == 0
        engine.metrics.unknown_users.inc(int(unknown_user))
        engine.metrics.unknown_items.inc(encoded.unknown_items)
        request_id = request.state.request_id
        scores = dict(zip(tasks, np.ascontiguousarray(found.scores.T), strict=True))
        return reply(
            {
                "request_id": request_id,
                "model": {"name": settings.name, "version": model.bundle.version},
                "scores": scores,
                "ranking": np.argsort(-found.scores[:, task], kind="stable"),
                "unknown": {"user": unknown_user, "items": encoded.unknown_items},
            },
            headers={"Server-Timing": f"encode;dur={found.encode_s * 1e3:.3f}, score;dur={found.score_s * 1e3:.3f}"},
            after=log and partial(log, partial(_answer, request_id, model, call, found)),
        )


def _answer(request_id: str, model: Model, call: RankCall, found: Ranked) -> Answer:
    encoded, bundle = found.encoded, model.bundle
    return Answer(
        request_id=request_id,
        answered_ms=answer_time(),
        time_ms=encoded.time,
        model_version=bundle.version,
        user=encoded.user,
        user_revision=encoded.user_revision,
        call=call,
        items=encoded.items,
        item_revisions=encoded.item_revisions,
        tasks=bundle.tasks,
        scores=found.scores,
        hashes=field_hashes(encoded.request, bundle.transform),
    )
