"""``unimixer store``: build and print the feature store of a server."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit, takes
from unimixer.errors import UnimixerError
from unimixer.serving.stores import open_store
from unimixer.serving.stores.base import redacted
from unimixer.serving.stores.build import build_store
from unimixer.serving.stores.records import canonical

app = typer.Typer(help="Build and print the feature store of a server.", no_args_is_help=True)


@dataclass(frozen=True)
class BuildOptions:
    """Choose the raw data and the feature store to write."""

    prepared: Annotated[
        Path, typer.Argument(metavar="RUN|STORE", help="A run, or the prepared dataset that it was trained on.")
    ]
    out: Annotated[str, typer.Option("--out", help="SQLite file to write, or redis://host:port/db.")]
    raw: Annotated[Path | None, typer.Option("--raw", help="Raw data (default: the recorded path).")] = None
    source: Annotated[
        str | None, typer.Option("--source", help="Data set or schema file (default: the recorded one).")
    ] = None
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Accept raw data that differs from the training data.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False
    as_json: Json = False


@app.command("build")
@takes(BuildOptions)
def build(options: BuildOptions) -> None:
    """Write the raw users, items and events of a run to a feature store.

    Example: unimixer store build RUN --raw KuaiRand-Pure --out features.sqlite
    """
    started = time.perf_counter()
    counts = build_store(
        options.prepared,
        options.out,
        raw=options.raw,
        source=options.source,
        other_data=options.other_data,
        overwrite=options.overwrite,
    )
    seconds, name = time.perf_counter() - started, redacted(options.out)

    def show() -> None:
        print(f"{name}: {', '.join(f'{n:,} {kind}' for kind, n in counts.items())} in {seconds:.1f} s")

    emit({"store": name, **counts, "seconds": round(seconds, 2)}, options.as_json, show)


@app.command("show")
def show(
    address: Annotated[str, typer.Argument(metavar="STORE", help="SQLite file, or redis://host:port/db.")],
    user: Annotated[str | None, typer.Option("--user", help="Also print the row of a user.")] = None,
    item: Annotated[str | None, typer.Option("--item", help="Also print the row of an item.")] = None,
    as_json: Json = False,
) -> None:
    """Print the numbers of users, items and events, and single rows.

    Example: unimixer store show features.sqlite --item 42
    """
    with closing(open_store(address)) as store:
        facts: dict[str, object] = {**store.counts()}
        for kind, key in (("user", user), ("item", item)):
            if key is None:
                continue
            text = canonical([key])[0] or ""
            record = store.users(text) if kind == "user" else store.items([text]).get(text)
            if record is None:
                raise UnimixerError(f"{store.name}: there is no {kind} {text!r}; give a key that the store holds")
            facts[kind] = {"revision": record.revision, **record.values}

    def lines() -> None:
        for name, value in facts.items():
            print(f"{name}: {json.dumps(value) if isinstance(value, dict) else f'{value:,}'}")

    emit(facts, as_json, lines)
