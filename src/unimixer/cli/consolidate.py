"""``unimixer consolidate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit

HELP = """Put the weights of an interrupted run on several processes together, for evaluate and predict.

A run that finishes does this by itself.

Example: unimixer consolidate runs/big"""


def consolidate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.training.consolidate import consolidate_run
    from unimixer.training.run import RunFolder

    folder = RunFolder(run)
    source = consolidate_run(folder)
    values = {"run": str(run), "source": str(source), "weights": str(folder.best_weights)}
    emit(values, as_json, lambda: print(f"{folder.best_weights} holds the weights of {source}"))
