"""``unimixer inspect``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Data, Json, Run, emit, table, takes
from unimixer.errors import MissingExtraError
from unimixer.inspection import inspect_run
from unimixer.inspection.inspect import INTERACTION_ROWS, ROWS
from unimixer.inspection.matrices import parse_temperatures
from unimixer.report.inspection import (
    attention_table,
    check_free,
    gate_table,
    interaction_table,
    rank_table,
    short_table,
    write_inspection,
)
from unimixer.report.inspection_figures import draw_inspection

SHOWN_PAIRS = 10
"""Pairs of parts of the input in the table."""


@dataclass(frozen=True)
class InspectOptions:
    """Choose the run to inspect, and the rows and temperatures to inspect it at."""

    run: Run
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to (default: RUN/inspection).")] = None
    temperatures: Annotated[
        str, typer.Option("--temperatures", help="Temperatures to solve for the matrices at, beside the trained one.")
    ] = "1,0.3,0.1,0.05"
    rows: Annotated[int, typer.Option("--rows", help="Number of held-out rows.")] = ROWS
    interaction_rows: Annotated[
        int, typer.Option("--interaction-rows", help="Number of held-out rows for interactions; 0 leaves them out.")
    ] = INTERACTION_ROWS
    by: Annotated[
        str | None,
        typer.Option("--by", help="Interactions between tokens, fields or groups (default: groups if known)."),
    ] = None
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "validation"
    data: Data = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier inspection.")] = False
    as_json: Json = False


@takes(InspectOptions)
def inspect(options: InspectOptions) -> None:
    """Inspect a run: how far its learned matrices moved, which fields interact, effective ranks, attention.

    Writes pictures, a page that needs no network, and the numbers as JSON.

    Examples: unimixer inspect RUN · unimixer inspect RUN --temperatures 1,0.1 --rows 4096 --split test --out look
    """
    folder = options.run / "inspection" if options.out is None else options.out
    check_free(folder, overwrite=options.overwrite)
    inspection = inspect_run(
        options.run,
        temperatures=parse_temperatures(options.temperatures),
        rows=options.rows,
        interaction_rows=options.interaction_rows,
        by=options.by,
        split=options.split,
        dataset=options.data,
    )
    try:
        pictures = draw_inspection(inspection)
    except MissingExtraError as error:
        pictures = {}
        print(f"no pictures: {error}", file=sys.stderr)
    files = write_inspection(inspection, pictures, folder, overwrite=options.overwrite)

    def show() -> None:
        tables = [
            ("learned mixing as trained, and its change from the start", short_table(inspection)),
            ("strongest interactions", interaction_table(inspection, SHOWN_PAIRS)),
            ("attention", attention_table(inspection)),
            ("mean weights of experts", gate_table(inspection)),
            (f"rank of tokens, {inspection.rows:,} rows of {options.split}", rank_table(inspection)),
        ]
        for title, content in tables:
            if content.rows:
                table(title, content.columns, content.rows, left=len(content.text))
        for sentence in inspection.sentences():
            print(sentence)
        for note in inspection.notes:
            print(note)
        print(f"page: {folder / 'inspect.html'}   pictures: {', '.join(pictures) or 'none'}")

    emit({"out": str(folder), "files": [path.name for path in files], **inspection.as_json()}, options.as_json, show)
