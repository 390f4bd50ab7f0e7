"""``unimixer evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit
from unimixer.cli.train import show_metrics

HELP = """Measure the best weights of a run on a split of its store, or on a file of labelled raw rows.

Examples: unimixer evaluate runs/NAME/STAMP --split test · unimixer evaluate RUN --input new_day.parquet"""


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    split: Annotated[str, typer.Option("--split", help="train, validation, test, or validation+test.")] = "test",
    data: Annotated[Path | None, typer.Option("--data", help="The store, where it moved since the training.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="Raw labelled rows (Parquet or CSV) instead of a split.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.evaluation import evaluate_file, evaluate_run
    from unimixer.training.evaluation import as_json as plain

    if input_file is not None:
        name, metrics = str(input_file), evaluate_file(run, input_file, device=device)
    else:
        name, metrics = split, evaluate_run(run, split, store=data, device=device)
    values = plain(metrics)
    emit({"run": str(run), "on": name, "tasks": values}, as_json, lambda: show_metrics(str(run), {name: values}))
