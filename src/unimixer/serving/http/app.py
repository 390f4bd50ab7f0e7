"""The routes of the server."""

from __future__ import annotations

from importlib.metadata import version
from inspect import signature
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from unimixer.abtest.events import Events
from unimixer.abtest.records import Exposure
from unimixer.errors import UnimixerError
from unimixer.serving.engine import Engine
from unimixer.serving.errors import HTTPError, refusal
from unimixer.serving.http import admin, outcomes
from unimixer.serving.http import open_inference as protocol
from unimixer.serving.http.common import refused, reply
from unimixer.serving.http.middleware import FAILED, App, Crowded, Message, Receive, Send
from unimixer.serving.http.openapi import METRICS, Live, RankRequest, RankResponse, Ready, answers, body, schemas
from unimixer.serving.http.ranking import Ranker
from unimixer.serving.prediction_log.record import PredictionRecord
from unimixer.serving.prediction_log.writer import PredictionLog

TITLE = "unimixer ranking server"
RANK = "/v1/rank"


def make_app(
    engine: Engine,
    prediction_log: PredictionLog[PredictionRecord] | None,
    exposures: PredictionLog[Exposure] | None = None,
    events: Events | None = None,
) -> FastAPI:
    """The application around an engine.

    Args:
        engine: the model in service.
        prediction_log: where answers are written.
        exposures: where exposures of experiments are written.
        events: where outcomes are written.
    """
    # its page brings its own script: a server often stands where no content network can be reached
    app = FastAPIOffline(redoc_url=None, title=TITLE, version=version("unimixer"), redirect_slashes=False)
    _refusals(app)
    _health(app, engine)
    _rank(app, Ranker(engine, prediction_log, exposures))
    if events is not None:
        outcomes.add_routes(app, engine, events)
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
        answer = refused(request, HTTPError(error.status_code, texts.get(error.status_code, str(error.detail))))
        answer.headers.update(error.headers or {})
        return answer

    async def failure(request: Request, error: Exception) -> Response:
        return refused(request, HTTPError(500, FAILED))

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


def _rank(app: FastAPI, ranker: Ranker) -> None:
    @app.post(
        RANK,
        tags=["ranking"],
        openapi_extra=body(RankRequest),
        responses=answers(RankResponse, 400, 401, 408, 413, 422, 429, 503),
    )
    async def rank(request: Request) -> Response:
        """Score candidates for a user."""
        return await ranker.answer(request)


class PlainRoute:
    """A route without parameters, called without the framework, which takes longer to find a route than to answer.

    Args:
        route: of the application; its function reads the request itself and returns a response.
    """

    def __init__(self, route: APIRoute) -> None:
        self.route, self.takes_request = route, bool(signature(route.endpoint).parameters)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """PredictionRecord one request."""
        scope["route"] = self.route
        request = Request(scope, receive)
        try:
            answer = await (self.route.endpoint(request) if self.takes_request else self.route.endpoint())
        except UnimixerError as error:
            answer = refused(request, refusal(error))
        await answer(scope, receive, send)


def crowded_routes(app: FastAPI, engine: Engine) -> dict[bytes, Crowded]:
    """The routes that are refused unread while they are full, by request line; where callers have a key, none is."""
    if engine.settings.api_key is not None:
        return {}
    route = next(route for route in app.routes if isinstance(route, APIRoute) and route.path == RANK)
    return {f"POST {RANK} HTTP/1.1".encode(): Crowded("POST", route, engine.requests)}


def plain_routes(app: FastAPI) -> dict[tuple[str, str], App]:
    """The routes without parameters by method and path."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and "{" not in route.path]
    return {(method, route.path): PlainRoute(route) for route in routes for method in route.methods or ()}
