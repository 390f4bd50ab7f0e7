"""``unimixer predict``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Device, Json, Run, Separator, emit, takes
from unimixer.errors import UnimixerError
from unimixer.io import check_not_read
from unimixer.predictor import Predictor, check_kept, is_csv, write_predictions
from unimixer.progress import say


@dataclass(frozen=True)
class PredictOptions:
    """Choose the run, the rows to score and the file of scores."""

    run: Run
    input_file: Annotated[Path, typer.Option("--input", help="Raw rows: Parquet or CSV, a file or a folder.")]
    output: Annotated[Path, typer.Option("--output", help="Scores, one row an input row: Parquet or CSV.")]
    keep: Annotated[list[str] | None, typer.Option("--keep", help="Input column to copy in front of the scores.")] = (
        None
    )
    suffix: Annotated[
        str,
        typer.Option("--suffix", help="Text behind the name of every score, so that --keep may have a task's name."),
    ] = ""
    separator: Separator = None
    device: Device = "auto"
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False
    as_json: Json = False


@takes(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Score raw rows of users and items seen or unseen, in their order, streamed.

    Example: unimixer predict RUN --input candidates.parquet --output scores.parquet --keep user_id
    """
    if options.output.exists() and not options.overwrite:
        raise UnimixerError(f"{options.output} exists; choose another --output, or pass --overwrite")
    check_not_read(options.output, options.input_file, options.run)
    is_csv(options.output)  # refuse a name of no known kind before any work
    predictor = Predictor(options.run, device=options.device)
    started = time.perf_counter()
    check_kept(options.keep or (), [f"{name}{options.suffix}" for name in predictor.columns])
    chunks = predictor.chunks(options.input_file, also=options.keep or (), separator=options.separator, or_empty=True)
    rows = write_predictions(predictor, chunks, options.output, options.keep or (), suffix=options.suffix)
    seconds = time.perf_counter() - started
    for remark in predictor.coverage.remarks():
        say(str(remark))
    values = {"output": str(options.output), "rows": rows, "seconds": round(seconds, 3), "tasks": list(predictor.tasks)}
    emit(
        {**values, **predictor.coverage.shares()},
        options.as_json,
        lambda: print(f"{options.output}: {rows:,} rows in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s)"),
    )
