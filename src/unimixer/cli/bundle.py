"""``unimixer bundle``: bring a bundle up to date by a delta."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.bundles import apply_delta
from unimixer.cli.output import Json, emit, takes

app = typer.Typer(help="Bring a bundle up to date by a delta.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Bring a bundle up to date by a delta."""


@dataclass(frozen=True)
class ApplyOptions:
    """Choose the bundle, the delta that follows it, and the new bundle."""

    base: Annotated[Path, typer.Argument(metavar="BASE", help="A bundle, or a link to one.")]
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="What unimixer export RUN --delta BASE wrote.")]
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle.")]
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier bundle.")] = False
    as_json: Json = False


@app.command("apply")
@takes(ApplyOptions)
def apply(options: ApplyOptions) -> None:
    """Make the bundle that a delta leads to, equal to a whole export of its run; BASE stays as it is.

    Example: unimixer bundle apply current delta-2 --out bundle-2
    """
    result = apply_delta(options.base, options.delta, options.out, overwrite=options.overwrite)
    size = sum(file["bytes"] for file in result["files"].values())
    values = {"out": str(options.out), "version": result["version"], "bytes": size}
    emit(values, options.as_json, lambda: print(f"{options.out}: version {result['version']}, {size / 1e6:.1f} MB"))
