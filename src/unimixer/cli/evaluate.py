"""``unimixer evaluate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.api import evaluate_hardened, evaluate_rows, evaluate_run
from unimixer.cli.output import Data, Device, Harden, Json, Run, Separator, emit, takes
from unimixer.cli.train import show_metrics
from unimixer.data.coverage import Coverage
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.progress import say
from unimixer.training.evaluation import as_json as plain
from unimixer.training.run import RunFolder, dataset_of


@dataclass(frozen=True)
class EvaluateOptions:
    """Choose the run and the rows to measure it on."""

    run: Run
    split: Annotated[str, typer.Option("--split", help="train, validation, test, or validation+test.")] = "test"
    data: Data = None
    input_file: Annotated[
        Path | None,
        typer.Option("--input", help="Raw labelled rows (Parquet or CSV, a file or a folder) instead of a split."),
    ] = None
    harden: Harden = None
    separator: Separator = None
    device: Device = "auto"
    as_json: Json = False


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Measure the best weights of a run on a split of its dataset, or on a file of labelled raw rows.

    Examples: unimixer evaluate runs/NAME/STAMP --split test · unimixer evaluate RUN --input new_day.parquet
    """
    if options.harden is not None:
        if options.input_file is not None:
            raise UnimixerError("--harden measures on a split of the dataset; leave --input out")
        _evaluate_hardened(options, options.harden)
        return
    if options.input_file is not None:
        predictor = Predictor(options.run, device=options.device)
        name = str(options.input_file)
        metrics = evaluate_rows(predictor, options.input_file, separator=options.separator)
        coverage = predictor.coverage
    else:
        name = options.split
        metrics = evaluate_run(options.run, options.split, dataset=options.data, device=options.device)
        coverage = Coverage.of_split(dataset_of(RunFolder(options.run), options.data), options.split)
    values = plain(metrics)

    def show() -> None:
        show_metrics(str(options.run), {name: values})
        unknown = {n: share for n, share in coverage.shares()["unknown"].items() if share}
        print(f"unknown values: {', '.join(f'{n} {share:.1%}' for n, share in unknown.items()) or 'none'}")

    for remark in coverage.remarks():
        say(str(remark))
    emit({"run": str(options.run), "on": name, "tasks": values, **coverage.shares()}, options.as_json, show)


def _evaluate_hardened(options: EvaluateOptions, form: str) -> None:
    """Measure before and after, with the change of the scores."""
    run, split = options.run, options.split
    hard, change = evaluate_hardened(run, form, split, dataset=options.data)
    trained = evaluate_run(run, split, dataset=options.data, device="cpu")
    values = {split: plain(trained), f"{split}, {form}": plain(hard)}

    def show() -> None:
        show_metrics(str(run), values)
        print(
            f"scores of {change.rows:,} rows move by at most {change.max_logit_difference:.3g}, by "
            f"{change.mean_logit_difference:.3g} on average, in the logit; "
            f"by at most {change.max_probability_difference:.3g} in the probability"
        )

    emit({"run": str(run), "form": form, "tasks": values, "change": asdict(change)}, options.as_json, show)
