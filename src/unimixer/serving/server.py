"""The process: opens everything, listens, swaps on SIGHUP, stops on SIGTERM without losing a request or an answer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import uvicorn
from fastapi import FastAPI

from unimixer.abtest.events import Events
from unimixer.abtest.records import Exposure
from unimixer.errors import UnimixerError
from unimixer.serving.arms import Experiments
from unimixer.serving.engine import Engine, Open
from unimixer.serving.http.app import crowded_routes, make_app, plain_routes
from unimixer.serving.http.connections import Connection, Limits, files_for
from unimixer.serving.http.middleware import RequestMiddleware
from unimixer.serving.log import Log, standard_error
from unimixer.serving.metrics import LogMetrics, Metrics
from unimixer.serving.prediction_log.exposures import ExposureSink
from unimixer.serving.prediction_log.record import LogSink, PredictionRecord, Row
from unimixer.serving.prediction_log.writer import PredictionLog, open_sink
from unimixer.serving.settings import API_KEY, ServeSettings
from unimixer.serving.stores import open_store
from unimixer.serving.stores.base import KINDS

BACKLOG = 512
SWITCH_S = 0.0005
"""Seconds after which a thread lets another one run Python: with Python's own 0.005 a scored request waits for that
long behind each thread that is busy, and a server has several."""


class _Server(uvicorn.Server):
    """Uvicorn with signals of ours: SIGTERM ends with exit code 0, as an orderly stop should."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: ServeSettings, open_bundle: Open) -> None:
    """Run the server until it is told to stop.

    Raises:
        UnimixerError: the port is taken, or the store, the bundle or the prediction log cannot be opened.
    """
    if settings.admin_key is not None and settings.api_key is not None:
        same = settings.admin_key.get_secret_value() == settings.api_key.get_secret_value()
        if same:
            raise UnimixerError("the admin key is the API key; give whoever asks for scores another key")
    sys.setswitchinterval(SWITCH_S)
    metrics = Metrics()
    log = Log(lost=metrics.log_lines_lost.inc)
    with standard_error(log):
        _serve(settings, open_bundle, metrics, log)
        log("stopped")


def _serve(settings: ServeSettings, open_bundle: Open, metrics: Metrics, log: Log) -> None:
    with contextlib.ExitStack() as open_things:  # closed last opened first
        listener = open_things.enter_context(_listen(settings.host, settings.port))
        store = open_store(settings.store, timeout=settings.store_timeout)
        open_things.callback(store.close)
        store.margin = settings.keep_events
        prediction_log = _prediction_log(settings, metrics, log)
        if prediction_log is not None:
            open_things.callback(prediction_log.close)
        exposures = _exposures(settings, metrics, log)
        if exposures is not None:
            open_things.callback(exposures.close)
        events = None
        if settings.events is not None:  # two connections: a long write of exposures keeps no outcome waiting
            events = Events(settings.events, timeout=settings.store_timeout)
            open_things.callback(events.close)
        engine = Engine(settings, store, open_bundle, metrics, Experiments(settings.experiments, events))
        open_things.callback(engine.close)
        if prediction_log is not None:
            prediction_log.sink.give_way = engine.requests.give_way
        metrics.watch("cached_users", "Encoded users that are kept", lambda: _cached(engine, 0))
        metrics.watch("cached_items", "Encoded items that are kept", lambda: _cached(engine, 1))
        app = make_app(engine, prediction_log, exposures, events)
        app.router.lifespan_context = _nothing
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            gate = RequestMiddleware(app, metrics, log, plain_routes(app), crowded_routes(app, engine))
            runner.run(_run(settings, gate, engine, listener, log))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where there is one; uvicorn takes it by itself only where it makes the loop."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


async def _run(
    settings: ServeSettings, app: RequestMiddleware, engine: Engine, listener: socket.socket, log: Log
) -> None:
    most = files_for(settings.connections)
    limits = Limits(most, settings.idle, settings.timeout, engine.metrics, log, app.refusal)
    config = uvicorn.Config(
        app,
        http=partial(Connection, limits),  # type: ignore[arg-type]  # it is called like a class
        ws="none",
        timeout_keep_alive=settings.idle,  # type: ignore[arg-type]  # it is a number of seconds for a clock
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing asks where a request comes from
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
        limit_max_requests=None,
    )
    server, loop = _Server(config), asyncio.get_running_loop()
    opening = asyncio.create_task(_open(engine, server, log))
    background: set[asyncio.Task[None]] = {opening}

    def stop() -> None:
        server.should_exit = True  # before anything else that may fail
        log("stopping")

    def reload() -> None:
        task = loop.create_task(_reload(engine, log))
        background.add(task)
        task.add_done_callback(background.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    address, port = listener.getsockname()[:2]
    log("listening", address=address, port=port, connections=limits.connections)
    if settings.api_key is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        log(
            "warning",
            text=f"everyone who reaches {address}:{port} may ask for scores: there is no API key; set {API_KEY}",
        )
    await server.serve(sockets=[listener])
    await opening


async def _open(engine: Engine, server: uvicorn.Server, log: Log) -> None:
    """Open the first bundle while the port answers already: live, and not ready."""
    try:
        version = await asyncio.to_thread(engine.load)
    except BaseException:
        server.should_exit = True
        raise
    _log_experiments(engine, log)
    try:
        await engine.check_ready()
        log("ready", model_version=version)
    except UnimixerError as error:
        log("not ready", model_version=version, reason=str(error))


async def _reload(engine: Engine, log: Log) -> None:
    try:
        log("swapped", model_version=await asyncio.to_thread(engine.load))
        _log_experiments(engine, log)
    except Exception as error:
        text = str(error) if isinstance(error, UnimixerError) else type(error).__name__
        log("swap refused", reason=text)


def _log_experiments(engine: Engine, log: Log) -> None:
    for experiment in engine.in_service.arms.experiments:
        facts = experiment.model_dump(mode="json", include={"name", "version", "unit", "traffic", "start", "end"})
        log("experiment", **facts, stopped=experiment.name in engine.experiments.stopped)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UnimixerError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from None
    listener.setblocking(False)
    return listener


def _prediction_log(settings: ServeSettings, metrics: Metrics, log: Log) -> PredictionLog[PredictionRecord] | None:
    if settings.prediction_log is None:
        return None
    written = _log(open_sink(settings.prediction_log), settings, metrics.prediction_log, log)
    metrics.watch("prediction_log_waiting", "Answers that are not written yet", lambda: written.waiting)
    metrics.watch("prediction_log_up", "0 while the prediction log cannot be written", lambda: not written.refused)
    return written


def _exposures(settings: ServeSettings, metrics: Metrics, log: Log) -> PredictionLog[Exposure] | None:
    if settings.events is None or not settings.experiments:
        return None
    sink = ExposureSink(Events(settings.events), metrics.exposures_repeated.inc)
    written = _log(sink, settings, metrics.exposures, log)
    metrics.watch("exposures_waiting", "Exposures that are not written yet", lambda: written.waiting)
    metrics.watch("exposures_up", "0 while exposures cannot be written", lambda: not written.refused)
    return written


def _log(sink: LogSink[Row], settings: ServeSettings, counts: LogMetrics, log: Log) -> PredictionLog[Row]:
    """Rows that wait for their place, with the server's settings, counters and log lines."""

    def failed(reason: str) -> None:
        counts.errors.inc()
        log(f"{sink.log} failed", reason=reason)

    def rejected(request_id: str, reason: str) -> None:
        counts.rejected.inc()
        log(f"{sink.log} rejected", request_id=request_id, reason=reason)

    log(sink.log, place=sink.name)
    return PredictionLog(
        sink,
        flush=settings.flush,
        max_rows=settings.log_rows,
        patience=settings.grace,
        written=counts.rows.inc,
        failed=failed,
        dropped=counts.dropped.inc,
        rejected=rejected,
    )


def _cached(engine: Engine, kind: int) -> int:
    models = engine.in_service.all_models if engine.ready else []
    return sum(model.encoder.cache_sizes[KINDS[kind]] for model in models)


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield
