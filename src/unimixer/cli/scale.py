"""``unimixer scale``: how quality grows with the size of a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli import scale_advise, scale_count, scale_run
from unimixer.cli.output import Json, emit, say_what_is_not_drawn, table

if TYPE_CHECKING:
    from unimixer.analysis.joint_law import JointLaw
    from unimixer.analysis.points import Points
    from unimixer.analysis.scaling_laws import Analysis
    from unimixer.analysis.series import Reading

HELP = "Scaling laws: count, sweep over sizes, fit exponents, say how big a model to buy, report."

FIT_HELP = """Fit laws of powers to points and compare the exponents of the models.

POINTS is a CSV or Parquet file with model,params,metric (and flops, seed, rows, latency_ms, best_auc where at hand), or
the folder of a sweep. The metric is a gain (dAUC = a N^b), an error (c + a N^-b), or an AUC (its error is 1 - AUC).
Examples: unimixer scale fit FOLDER · unimixer scale fit paper.csv --units params=M,metric=percent · unimixer scale fit
points.csv --form error --best-auc 0.82 --x flops --at 64M,1B"""

REPORT_HELP = """Write what the points say: one HTML page that needs no network, Markdown, PNG and SVG.

Examples: unimixer scale report FOLDER · unimixer scale report points.csv --form error --out FOLDER"""

PointsFile = Annotated[
    Path,
    typer.Argument(metavar="FOLDER|POINTS", help="A sweep's folder, or a CSV or Parquet file.", show_default=False),
]
Form = Annotated[str | None, typer.Option("--form", help="gain (a N^b) or error (c + a N^-b).")]
MetricIs = Annotated[
    str | None, typer.Option("--metric-is", help="auc, gain or error (default: auc in a sweep's file, else by --form).")
]
Units = Annotated[
    str | None, typer.Option("--units", help="Of columns not in units of one: params=M,flops=T,metric=percent.")
]
BestAuc = Annotated[float | None, typer.Option("--best-auc", help="Best reachable AUC; the floor is 1 less this.")]
FloorRange = Annotated[str | None, typer.Option("--floor", help="Floor of the error: a number, or bounds LOW,HIGH.")]
BaseAuc = Annotated[float | None, typer.Option("--base-auc", help="AUC that a gain counts from.")]
Models = Annotated[str | None, typer.Option("--models", help="Only these models, separated by commas.")]
At = Annotated[str | None, typer.Option("--at", help="Sizes to predict: 64M,1B (default: four times the largest).")]
Replicates = Annotated[int, typer.Option("--replicates", help="Draws of the bootstrap.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the draws.")]

app = typer.Typer(no_args_is_help=True, help=HELP)
app.command("count", help=scale_count.HELP)(scale_count.count)
app.command("run", help=scale_run.HELP)(scale_run.run)
app.command("transfer", help=scale_run.TRANSFER_HELP)(scale_run.transfer)
app.command("advise", help=scale_advise.HELP)(scale_advise.advise)


@app.command("fit", help=FIT_HELP)
def fit(
    points: PointsFile,
    form: Form = None,
    x: Annotated[str, typer.Option("--x", help="params, flops or latency_ms.")] = "params",
    metric_is: MetricIs = None,
    units: Units = None,
    best_auc: BestAuc = None,
    floor: FloorRange = None,
    base_auc: BaseAuc = None,
    models: Models = None,
    at: At = None,
    replicates: Replicates = 2_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """See :data:`FIT_HELP`."""
    from unimixer.analysis.options import parse_sizes
    from unimixer.analysis.scaling_laws import analyse, analyse_jointly
    from unimixer.report.scaling_tables import analysis_values, joint_values

    found, reading = _given(points, form, metric_is, units, best_auc, floor, base_auc, models)
    sizes = parse_sizes(at) if at else []
    fitted = analyse(found, x=x, reading=reading, at=sizes, replicates=replicates, seed=seed)
    joint = analyse_jointly(found, reading, replicates=replicates, seed=seed)
    values = {"source": str(points), **analysis_values(fitted), "joint": joint_values(joint)}
    emit(values, as_json, lambda: _show(fitted, joint))


@app.command("report", help=REPORT_HELP)
def report(
    points: PointsFile,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to (default: the sweep's, or POINTS-scaling).")
    ] = None,
    form: Form = None,
    metric_is: MetricIs = None,
    units: Units = None,
    best_auc: BestAuc = None,
    floor: FloorRange = None,
    base_auc: BaseAuc = None,
    models: Models = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Parameters to predict: 64M,1B (default: four times the largest).")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Above the report.")] = None,
    replicates: Replicates = 2_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """See :data:`REPORT_HELP`."""
    from unimixer.analysis.options import parse_sizes
    from unimixer.report.scaling import AnalysisOptions, write_report

    found, reading = _given(points, form, metric_is, units, best_auc, floor, base_auc, models)
    folder = out or (points if points.is_dir() else points.with_name(f"{points.stem}-scaling"))
    sizes = parse_sizes(at) if at else []
    heading = title or f"How quality grows: {points.resolve().stem}"
    say_what_is_not_drawn(f"unimixer scale report {shlex.quote(str(points))}")
    options = AnalysisOptions(reading=reading, at=sizes, replicates=replicates, seed=seed)
    files = write_report(found, folder, title=heading, options=options)
    values = {"page": str(files[0]), "files": [str(path) for path in files]}
    emit(values, as_json, lambda: print(f"page: {files[0]}   beside it: {len(files) - 1} files"))


def _given(
    path: Path,
    form: str | None,
    metric: str | None,
    units: str | None,
    best_auc: float | None,
    floor: str | None,
    base_auc: float | None,
    models: str | None,
) -> tuple[Points, Reading]:
    """The points and how to read their metric."""
    from unimixer.analysis.options import parse_floor
    from unimixer.analysis.points import read_points
    from unimixer.analysis.power_law import FORMS
    from unimixer.analysis.series import Reading
    from unimixer.analysis.units import METRICS, parse_units
    from unimixer.errors import UnimixerError, check_choice

    if form is not None:
        check_choice("--form", form, FORMS)
    if metric is not None:
        check_choice("--metric-is", metric, METRICS)
    if floor is not None and best_auc is not None:
        raise UnimixerError("--floor and --best-auc both say what the error falls to; give one of them")
    found = read_points(path, metric=metric, form=form, units=parse_units(units or ""))
    if models is not None:
        found = found.only([name.strip() for name in models.split(",") if name.strip()])
    bounds = None if floor is None else parse_floor(floor)
    return found, Reading(form=form, best_auc=best_auc, floor=bounds, base_auc=base_auc)


def _show(fitted: Analysis, joint: dict[str, JointLaw]) -> None:
    from unimixer.report.scaling_tables import equation, joint_table, law_table, pair_table, prediction_table

    tables = [
        (equation(fitted), law_table(fitted)),
        ("exponents compared", pair_table(fitted)),
        ("predicted", prediction_table(fitted)),
        ("error = c + a N^-b + d D^-e", joint_table(joint)),
    ]
    for title, content in tables:
        if content.rows:
            table(title, content.columns, content.rows)
    for text in fitted.warnings:
        print(f"warning: {text}")
    for model, law in joint.items():
        for text in law.warnings:
            print(f"warning: {model}, joint fit: {text}")
