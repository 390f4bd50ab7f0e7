"""``unimixer runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.cli.output import Json, emit, markdown, table
from unimixer.progress import note
from unimixer.training.run import runs_folder
from unimixer.training.summary import summarise_runs

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
    """Print finished runs: mean and spread over seeds of every recipe.

    Examples: unimixer runs · unimixer runs runs/kuairand-* --markdown
    """
    folders = folders or [runs_folder()]
    summaries = summarise_runs(folders)
    if not summaries:
        note(f"no run below {', '.join(map(str, folders))} is finished; runs are made by: unimixer train")
    if as_markdown and not as_json:
        print(markdown(COLUMNS, _rows(summaries), left=2))
    else:
        show_summary(summaries, as_json)


def show_summary(summaries: list[dict[str, Any]], as_json: bool) -> None:
    """Print a summary of runs."""
    title = "mean ± standard deviation over seeds"
    emit({"rows": summaries}, as_json, lambda: table(title, COLUMNS, _rows(summaries), left=2))


def _rows(summaries: list[dict[str, Any]]) -> list[list[Any]]:
    return [[summary[column] for column in COLUMNS] for summary in summaries]
