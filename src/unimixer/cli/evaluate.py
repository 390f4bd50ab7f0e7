"""``unimixer evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Data, Device, Harden, Json, Separator, emit, takes
from unimixer.cli.train import show_metrics
from unimixer.data.coverage import Coverage
from unimixer.errors import UnimixerError
from unimixer.evaluation import ScoreColumns, evaluate_hardened, evaluate_predictions, evaluate_rows, evaluate_split
from unimixer.metrics import TaskMetrics
from unimixer.predictor import Predictor
from unimixer.progress import say
from unimixer.report.figures import check_figure
from unimixer.report.reliability import write_reliability
from unimixer.training.evaluation import as_json as plain
from unimixer.training.run import dataset_of

_OPTION_NAMES = {"run": "the run folder", "input_file": "--input"}
_COLUMNS = ("label", "score", "user", "request", "weight", "threshold", "logits")
"""Options of a file of scores."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Choose the run and the rows to measure it on, or a file of scores."""

    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None
    split: Annotated[str, typer.Option("--split", help="train, validation, test, or validation+test.")] = "test"
    data: Data = None
    input_file: Annotated[
        Path | None,
        typer.Option("--input", help="Raw labelled rows (Parquet or CSV, a file or a folder) instead of a split."),
    ] = None
    harden: Harden = None
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Scores and labels of any library (Parquet or CSV) instead of a run."),
    ] = None
    label: Annotated[str | None, typer.Option("--label", help="Column of the label in --predictions.")] = None
    score: Annotated[str, typer.Option("--score", help="Column of the score in --predictions.")] = "score"
    user: Annotated[str | None, typer.Option("--user", help="Column of the user in --predictions.")] = None
    request: Annotated[
        str | None, typer.Option("--request", help="Column of the request in --predictions, for metrics of lists.")
    ] = None
    weight: Annotated[str | None, typer.Option("--weight", help="Column of row weights in --predictions.")] = None
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="The label of --predictions is LABEL >= this number.")
    ] = None
    logits: Annotated[bool, typer.Option("--logits", help="The scores of --predictions are logits.")] = False
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Further metric: ndcg@K, mrr, hitrate@K, ece or rig. May be repeated."),
    ] = None
    reliability: Annotated[
        Path | None,
        typer.Option("--reliability", help="Picture of the calibration to write, PNG and SVG, without its ending."),
    ] = None
    separator: Separator = None
    device: Device = "auto"
    as_json: Json = False

    @property
    def asked(self) -> list[str]:
        """Metrics that were asked for; the picture needs the bins of the calibration error."""
        return [*(self.metrics or ()), *(["ece"] if self.reliability is not None else [])]


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Measure the best weights of a run on a split of its dataset, or on a file of labelled raw rows.

    With --predictions, measure a file of scores of this library or another.

    Examples: unimixer evaluate runs/NAME/STAMP --split test · unimixer evaluate RUN --input new_day.parquet ·
    unimixer evaluate --predictions scores.csv --label click --user user_id --metric ndcg@10
    """
    if options.reliability is not None:
        check_figure(options.reliability)
    if options.predictions is not None:
        _evaluate_predictions(options, options.predictions)
        return
    if options.run is None:
        raise UnimixerError("give a run folder, or a file of scores with --predictions")
    for name in _COLUMNS:
        if getattr(options, name) != getattr(EvaluateOptions, name):
            raise UnimixerError(
                f"--{name} describes a file of scores; give the file with --predictions, or leave it out"
            )
    for name in ("data", "split"):
        if options.input_file is not None and getattr(options, name) != getattr(EvaluateOptions, name):
            raise UnimixerError(f"--input measures raw rows, and --{name} is of a dataset; leave one of them out")
    if options.harden is not None:
        if options.input_file is not None:
            raise UnimixerError("--harden measures on a split of the dataset; leave --input out")
        _evaluate_hardened(options.run, options, options.harden)
        return
    predictor = Predictor(options.run, device=options.device)
    if options.input_file is not None:
        name, separator = str(options.input_file), options.separator
        metrics = evaluate_rows(predictor, options.input_file, separator=separator, metrics=options.asked)
        coverage = predictor.coverage
    else:
        name = options.split
        metrics = evaluate_split(predictor, name, dataset=options.data, metrics=options.asked)
        coverage = Coverage.of_split(dataset_of(predictor.run, options.data), name)
    values = plain(metrics)

    def show() -> None:
        show_metrics(str(options.run), {name: values})
        unknown = {n: share for n, share in coverage.shares()["unknown"].items() if share}
        print(f"unknown values: {', '.join(f'{n} {share:.1%}' for n, share in unknown.items()) or 'none'}")

    for remark in coverage.remarks():
        say(str(remark))
    _draw(options, metrics)
    emit({"run": str(options.run), "on": name, "tasks": values, **coverage.shares()}, options.as_json, show)


def _evaluate_predictions(options: EvaluateOptions, path: Path) -> None:
    """Measure a file of scores."""
    for name in ("run", "input_file", "harden", "data", "split"):
        if getattr(options, name) != getattr(EvaluateOptions, name):
            raise UnimixerError(
                f"--predictions measures the scores of a file; leave {_OPTION_NAMES.get(name, f'--{name}')} out"
            )
    if options.label is None:
        raise UnimixerError("--predictions needs the column of the label: --label COLUMN")
    columns = ScoreColumns(**{name: getattr(options, name) for name in _COLUMNS})
    metrics = evaluate_predictions(path, columns, metrics=options.asked, separator=options.separator)
    values = plain(metrics)
    _draw(options, metrics)
    emit(
        {"predictions": str(path), "tasks": values},
        options.as_json,
        lambda: show_metrics(str(path), {options.score: values}),
    )


def _draw(options: EvaluateOptions, metrics: Mapping[str, TaskMetrics]) -> None:
    """Write the picture of the calibration, if one was asked for."""
    if options.reliability is not None:
        say(f"wrote {', '.join(str(path) for path in write_reliability(metrics, options.reliability))}")


def _evaluate_hardened(run: Path, options: EvaluateOptions, form: str) -> None:
    """Measure before and after, with the change of the scores."""
    split = options.split
    hard, change = evaluate_hardened(run, form, split, dataset=options.data, metrics=options.asked)
    trained = evaluate_split(Predictor(run, device="cpu"), split, dataset=options.data, metrics=options.asked)
    values = {split: plain(trained), f"{split}, {form}": plain(hard)}

    def show() -> None:
        show_metrics(str(run), values)
        print(
            f"scores of {change.rows:,} rows move by at most {change.max_logit_difference:.3g}, by "
            f"{change.mean_logit_difference:.3g} on average, in the logit; "
            f"by at most {change.max_probability_difference:.3g} in the probability"
        )

    _draw(options, hard)
    emit({"run": str(run), "form": form, "tasks": values, "change": asdict(change)}, options.as_json, show)
