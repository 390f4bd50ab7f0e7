"""``unimixer serve``: serve a bundle over HTTP."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.bundles import open_bundle
from unimixer.cli.output import takes
from unimixer.errors import MissingExtraError
from unimixer.serving.settings import ADMIN_KEY, API_KEY, ServeSettings, read_key
from unimixer.settings import parse

try:
    from unimixer.serving.server import serve as run_server
except ModuleNotFoundError:
    raise MissingExtraError("serving", "serve") from None


@dataclass(frozen=True)
class ServeOptions:
    """Choose the bundle to serve, its store, and the limits of the server."""

    bundle: Annotated[Path, typer.Argument(help="A bundle, or a link to one.")]
    store: Annotated[str, typer.Option("--store", help="SQLite file, or redis://host:port/db.")]
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = (
        8080
    )
    name: Annotated[str, typer.Option("--name", help="Name of the model under /v2/models.")] = "ranker"
    threads: Annotated[int, typer.Option("--threads", help="Threads per scored request.")] = 1
    concurrency: Annotated[int, typer.Option("--concurrency", help="Number of requests that are scored at once.")] = 2
    queue: Annotated[int, typer.Option("--queue", help="Largest number of waiting requests; more get 429.")] = 32
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds from the arrival of a request to its answer.")
    ] = 2.0
    connections: Annotated[
        int, typer.Option("--connections", help="Largest number of open connections; more get 503.")
    ] = 1_000
    idle: Annotated[float, typer.Option("--idle", help="Seconds that a connection may be silent.")] = 5.0
    max_body: Annotated[int, typer.Option("--max-body", help="Largest number of bytes of a body.")] = 1 << 20
    max_candidates: Annotated[int, typer.Option("--max-candidates", help="Largest number of items of a request.")] = (
        2_000
    )
    cached: Annotated[int, typer.Option("--cached", help="Largest number of cached users, and of cached items.")] = (
        200_000
    )
    keep_events: Annotated[
        int, typer.Option("--keep-events", help="Events per user to keep in addition to the longest history.")
    ] = 1_000
    experiments: Annotated[
        list[Path] | None,
        typer.Option("--experiment", help="Specification of an experiment; several share a layer."),
    ] = None
    events: Annotated[
        str | None,
        typer.Option("--database", help="sqlite:///FILE or postgresql://user@host/db for exposures and outcomes."),
    ] = None
    positions: Annotated[int, typer.Option("--positions", help="Largest number of shown items of an exposure.")] = 100
    prediction_log: Annotated[
        str | None,
        typer.Option("--prediction-log", help="Folder, or postgresql://user@host/db, to write every answer to."),
    ] = None
    flush: Annotated[float, typer.Option("--flush", help="Seconds between two writes of the prediction log.")] = 1.0
    log_rows: Annotated[
        int, typer.Option("--log-rows", help="Largest number of answers that wait to be written; more are lost.")
    ] = 50_000
    grace: Annotated[float, typer.Option("--grace", help="Seconds for running requests to end after SIGTERM.")] = 10.0
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the key of ranking requests.")
    ] = None
    admin_key_file: Annotated[
        Path | None, typer.Option("--admin-key-file", help="File with the key for changes under /admin.")
    ] = None


@takes(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve a bundle over HTTP: POST /v1/rank, the open inference protocol under /v2, GET /docs.

    Keys come from UNIMIXER_API_KEY and UNIMIXER_ADMIN_KEY, or from files. SIGHUP loads BUNDLE again
    and serves it; SIGTERM ends the server after the running requests and the prediction log.

    The prediction log is a folder or a PostgreSQL database (password in ~/.pgpass or PGPASSWORD, not in the command).
    With --experiment, users get the bundle of their arm, and exposures go to the database of --database.

    Example: unimixer serve bundle --store features.sqlite --port 8080 --prediction-log scores
    """
    values = {**asdict(options), "experiments": options.experiments or ()}
    keys = {
        "api_key": read_key(API_KEY, values.pop("api_key_file")),
        "admin_key": read_key(ADMIN_KEY, values.pop("admin_key_file")),
    }
    run_server(parse(ServeSettings, {**values, **keys}, where="serve"), open_bundle)
