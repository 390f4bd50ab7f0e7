"""``unimixer runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit, markdown, table

HELP = """Table of finished runs: mean and spread over seeds of every recipe.

Examples: unimixer runs · unimixer runs runs/kuairand-* --markdown"""

COLUMNS = [
    "recipe",
    "task",
    "seeds",
    "dense parameters",
    "samples/s",
    "validation AUC",
    "validation UAUC",
    "test AUC",
    "test UAUC",
]


def runs(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders to look below (default: runs).")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.training.run import runs_folder
    from unimixer.training.summary import summarise_runs

    summaries = summarise_runs(folders or [runs_folder()])
    rows = [[s[column] for column in COLUMNS] for s in summaries]
    if as_markdown and not as_json:
        print(markdown(COLUMNS, rows, left=2))
        return
    emit({"rows": summaries}, as_json, lambda: table("mean ± standard deviation over seeds", COLUMNS, rows, left=2))
