"""``unimixer predict``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Device, Json, Run, Separator, emit
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor, check_kept, is_csv, read_rows, write_predictions
from unimixer.progress import say


def predict(
    run: Run,
    input_file: Annotated[Path, typer.Option("--input", help="Raw rows: Parquet or CSV, a file or a folder.")],
    output: Annotated[Path, typer.Option("--output", help="Scores, one row an input row: Parquet or CSV.")],
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Input column to copy in front of the scores.")
    ] = None,
    separator: Separator = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
    as_json: Json = False,
) -> None:
    """Score raw rows of users and items seen or unseen, in their order, streamed.

    Example: unimixer predict RUN --input candidates.parquet --output scores.parquet --keep user_id
    """
    if output.exists() and not overwrite:
        raise UnimixerError(f"{output} exists; choose another --output, or pass --overwrite")
    is_csv(output)  # refuse a name of no known kind before any work
    predictor = Predictor(run, device=device)
    started = time.perf_counter()
    check_kept(keep or (), predictor.tasks)
    chunks = read_rows(predictor.transform.schema, input_file, also=keep or (), separator=separator, or_empty=True)
    rows = write_predictions(predictor, chunks, output, keep or ())
    seconds = time.perf_counter() - started
    for remark in predictor.coverage.remarks():
        say(str(remark))
    values = {"output": str(output), "rows": rows, "seconds": round(seconds, 3), "tasks": list(predictor.tasks)}
    emit(
        {**values, **predictor.coverage.shares()},
        as_json,
        lambda: print(f"{output}: {rows:,} rows in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s)"),
    )
