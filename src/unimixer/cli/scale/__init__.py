"""``unimixer scale``: fit and report how quality grows with the size of a model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.experiment import split
from unimixer.cli.output import Json, emit, say_what_is_not_drawn, table, takes
from unimixer.cli.scale import advise, count, run

if TYPE_CHECKING:
    from unimixer.analysis.joint_law import JointLaw
    from unimixer.analysis.points import Points
    from unimixer.analysis.scaling_laws import Analysis
    from unimixer.analysis.series import Reading

app = typer.Typer(
    no_args_is_help=True, help="Scaling laws: count costs, sweep over sizes, fit exponents, choose a size, report."
)
for _verb in (count.count, run.run, run.transfer, advise.advise):
    app.command()(_verb)


@dataclass(frozen=True)
class PointsOptions:
    """Options of the verbs that fit laws to points."""

    points: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|POINTS", help="A sweep's folder, or a CSV or Parquet file.", show_default=False),
    ]
    form: Annotated[str | None, typer.Option("--form", help="gain (a N^b) or error (c + a N^-b).")] = None
    metric_is: Annotated[
        str | None,
        typer.Option("--metric-is", help="auc, gain, error or excess_log_loss (default: as the file has it)."),
    ] = None
    units: Annotated[
        str | None, typer.Option("--units", help="Of columns not in units of one: params=M,flops=T,metric=percent.")
    ] = None
    best_auc: Annotated[
        float | None, typer.Option("--best-auc", help="Best reachable AUC; the floor is 1 less this.")
    ] = None
    floor: Annotated[str | None, typer.Option("--floor", help="Floor of the error: a number, or bounds LOW,HIGH.")] = (
        None
    )
    base_auc: Annotated[float | None, typer.Option("--base-auc", help="AUC that a gain counts from.")] = None
    models: Annotated[str | None, typer.Option("--models", help="Only these models, separated by commas.")] = None
    at: Annotated[
        str | None, typer.Option("--at", help="Sizes to predict: 64M,1B (default: four times the largest).")
    ] = None
    replicates: Annotated[int, typer.Option("--replicates", help="Draws of the bootstrap.")] = 2_000
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0
    as_json: Json = False

    def read(self) -> tuple[Points, Reading]:
        """Read the points, and return them with the way to read their metric."""
        from unimixer.analysis.points import read_points
        from unimixer.analysis.power_law import FORMS
        from unimixer.analysis.series import Reading
        from unimixer.analysis.units import METRICS, parse_floor, parse_units
        from unimixer.errors import UnimixerError, check_choice

        if self.form is not None:
            check_choice("--form", self.form, FORMS)
        if self.metric_is is not None:
            check_choice("--metric-is", self.metric_is, METRICS)
        if self.floor is not None and self.best_auc is not None:
            raise UnimixerError("--floor and --best-auc both say what the error falls to; give one of them")
        aucs = "auc" if self.best_auc is not None and self.form is None else None
        points = read_points(
            self.points, metric=self.metric_is or aucs, form=self.form, units=parse_units(self.units or "")
        )
        if self.models is not None:
            points = points.only(split(self.models))
        bounds = None if self.floor is None else parse_floor(self.floor)
        reading = Reading(form=self.form, best_auc=self.best_auc, irreducible_error=bounds, base_auc=self.base_auc)
        self._check_effect(points.metric, reading.form_of(points))
        return points, reading

    def _check_effect(self, metric: str, form: str) -> None:
        """Raise for an option that the form or the metric leaves without effect."""
        from unimixer.analysis.units import AUC, EXCESS, GAIN
        from unimixer.errors import UnimixerError

        floor = "--floor" if self.floor is not None else "--best-auc" if self.best_auc is not None else None
        if floor is not None and form == GAIN:
            raise UnimixerError(f"{floor} is of an error, and a gain has no floor; leave it out, or fit --form error")
        if self.best_auc is not None and metric == EXCESS:
            raise UnimixerError("--best-auc: the excess log loss falls to 0; leave it out, or fit --metric-is auc")
        if self.base_auc is not None and not (form == GAIN and metric == AUC):
            raise UnimixerError(
                "--base-auc is what a gain counts from where the file holds AUCs; leave it out, or fit --form gain "
                "with --metric-is auc"
            )

    def predicted_sizes(self) -> list[float]:
        """Return the sizes to predict."""
        from unimixer.analysis.units import parse_sizes

        return [] if self.at is None else parse_sizes(self.at)


@dataclass(frozen=True)
class FitOptions(PointsOptions):
    """Options of ``unimixer scale fit``."""

    x: Annotated[str, typer.Option("--x", help="params, flops, latency_ms or rows.")] = "params"


@dataclass(frozen=True)
class ReportOptions(PointsOptions):
    """Options of ``unimixer scale report``."""

    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to (default: the sweep's, or POINTS-scaling).")
    ] = None
    title: Annotated[str | None, typer.Option("--title", help="Above the report.")] = None


@app.command()
@takes(FitOptions)
def fit(options: FitOptions) -> None:
    """Fit laws of powers to points and compare the exponents of the models.

    POINTS is a CSV or Parquet file with model,params,metric (and flops, seed, rows, latency_ms, best_auc where at
    hand), or the folder of a sweep. The metric is a gain (dAUC = a N^b), an error (c + a N^-b), or an AUC (its error is
    1 - AUC). Examples: unimixer scale fit FOLDER · unimixer scale fit paper.csv --units params=M,metric=percent ·
    unimixer scale fit points.csv --form error --best-auc 0.82 --x flops --at 64M,1B
    """
    from unimixer.analysis.scaling_laws import analyze, analyze_jointly
    from unimixer.report.scaling_tables import analysis_values, joint_values

    points, reading = options.read()
    draws = {"replicates": options.replicates, "seed": options.seed}
    laws = analyze(points, x=options.x, reading=reading, at=options.predicted_sizes(), **draws)
    joint = analyze_jointly(points, reading, **draws)
    values = {"source": str(options.points), **analysis_values(laws), "joint": joint_values(joint)}
    emit(values, options.as_json, lambda: _show(laws, joint))


@app.command()
@takes(ReportOptions)
def report(options: ReportOptions) -> None:
    """Write a report of the points: one HTML page that needs no network, Markdown, PNG and SVG.

    Examples: unimixer scale report FOLDER · unimixer scale report points.csv --form error --out FOLDER
    """
    from unimixer.io import check_foreign
    from unimixer.report.scaling import AnalysisOptions, write_report

    path, (points, reading) = options.points, options.read()
    analysis = AnalysisOptions(reading, options.predicted_sizes(), options.replicates, options.seed)
    if options.out is not None and options.out.resolve() != path.resolve():
        check_foreign(options.out)
    say_what_is_not_drawn(f"unimixer scale report {shlex.quote(str(path))}")
    files = write_report(
        points,
        options.out or (path if path.is_dir() else path.with_name(f"{path.stem}-scaling")),
        title=options.title or f"How quality grows: {path.resolve().stem}",
        options=analysis,
    )
    values = {"page": str(files[0]), "files": [str(file) for file in files]}
    emit(values, options.as_json, lambda: print(f"page: {files[0]}   beside it: {len(files) - 1} files"))


def _show(fitted: Analysis, joint: dict[str, JointLaw]) -> None:
    from unimixer.report.scaling_tables import (
        equation,
        joint_table,
        law_table,
        pair_table,
        prediction_table,
        ratio_table,
        rows_table,
        slope_table,
    )

    tables = [
        (equation(fitted), law_table(fitted)),
        ("exponents compared", pair_table(fitted)),
        ("compared at equal size", ratio_table(fitted)),
        ("do the curves part?", slope_table(fitted)),
        ("predicted", prediction_table(fitted)),
        ("error = c + a N^-b + d D^-e", joint_table(joint)),
        ("the law over parameters at each number of training rows", rows_table(joint)),
    ]
    for title, content in tables:
        if content.rows:
            table(title, content.columns, content.rows)
    for text in fitted.warnings:
        print(f"warning: {text}")
    for model, law in joint.items():
        for text in law.warnings:
            print(f"warning: {model}, joint fit: {text}")
