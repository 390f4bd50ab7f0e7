"""``unimixer scale advise``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.output import Json, emit, table, takes

if TYPE_CHECKING:
    from unimixer.analysis.sizing import Advice, Budget

CANDIDATES = 500
"""Rows of a measured request."""
MEASURED = 4
"""Number of sizes of a model whose latency is measured."""
COLUMNS = (
    *("model", "parameters", "predicted", "95% interval", "kept from growing by", "FLOPs", "ms", "cores", "hours"),
    *("times the largest",),
)
RETURNS = (
    *("doubling params", "doubling flops", "doubling latency_ms"),
    *("per million params", "per MFLOP", "per ms"),
)


@dataclass(frozen=True)
class AdviseOptions:
    """Options of ``unimixer scale advise``."""

    points: Annotated[Path, typer.Argument(metavar="FOLDER|POINTS", help="A sweep's folder, or a file of points.")]
    latency_ms: Annotated[float | None, typer.Option("--latency-ms", help="Longest time of a request.")] = None
    candidates: Annotated[
        int | None, typer.Option("--candidates", min=1, help="Rows of a measured request (default: 500).")
    ] = None
    qps: Annotated[float | None, typer.Option("--qps", help="Requests a second, all cores together.")] = None
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="That serve (default: this machine's).")] = None
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of a request.")] = 1
    train_hours: Annotated[
        float | None, typer.Option("--train-hours", help="Longest run, at the speed of the sweep.")
    ] = None
    max_params: Annotated[str | None, typer.Option("--max-params", help="Most dense parameters: 64M.")] = None
    beyond: Annotated[
        float, typer.Option("--beyond", help="Look at sizes up to so many times the largest that was trained.")
    ] = 4.0
    form: Annotated[str | None, typer.Option("--form", help="As in scale fit.")] = None
    best_auc: Annotated[float | None, typer.Option("--best-auc", help="As in scale fit.")] = None
    base_auc: Annotated[float | None, typer.Option("--base-auc", help="As in scale fit.")] = None
    as_json: Json = False

    def budget(self) -> Budget:
        """Return what a model may cost."""
        from unimixer.analysis.sizing import Budget
        from unimixer.environment import cores
        from unimixer.errors import UnimixerError
        from unimixer.experiments.sizes import parse_sizes

        if self.cores is not None and self.qps is None:
            raise UnimixerError("--cores are those that serve --qps; give both, or leave --cores out")
        sizes = [None] if self.max_params is None else parse_sizes(self.max_params)
        if len(sizes) > 1:
            raise UnimixerError(f"--max-params {self.max_params!r}: one number here")
        return Budget(
            latency_ms=self.latency_ms,
            qps=self.qps,
            cores=self.cores or cores(),
            threads=self.threads,
            training_hours=self.train_hours,
            params=None if sizes[0] is None else float(sizes[0]),
        )

    def latency(self) -> dict[tuple[str, str, int], float]:
        """Measure the latency of a few sizes of every model, if the points are those of a sweep."""
        from unimixer.errors import UnimixerError
        from unimixer.experiments import Sweep, size_experiment
        from unimixer.experiments.experiment import request_latencies
        from unimixer.experiments.plan_file import is_begun, read_plan

        folder = self.points
        if not is_begun(folder, Sweep):
            if self.candidates is not None:
                raise UnimixerError(
                    "--candidates is of requests that are measured for the folder of a sweep; a file has latencies of "
                    "its own: leave it out"
                )
            return {}
        series = size_experiment(read_plan(folder, Sweep), folder).series
        return request_latencies(
            series, folder, candidates=self.candidates or CANDIDATES, threads=self.threads, at_most=MEASURED
        )


@takes(AdviseOptions)
def advise(options: AdviseOptions) -> None:
    """Choose the size of a model: the best predicted AUC within a budget for serving or training on this machine.

    The laws are those of `scale fit` over parameters. For the folder of a sweep the latency of a request is measured
    here at a few sizes of every model, and interpolated between them; a file of points needs a column latency_ms.
    Examples: unimixer scale advise FOLDER --latency-ms 8 --candidates 500 --qps 200 · unimixer scale advise points.csv
    --train-hours 12
    """
    from unimixer.analysis import sizing
    from unimixer.analysis.points import read_points
    from unimixer.analysis.scaling_laws import analyze
    from unimixer.analysis.series import Reading
    from unimixer.analysis.units import AUC, EXCESS

    budget = options.budget()
    points = read_points(options.points, form=options.form)
    if points.metric == EXCESS:
        points = read_points(options.points, metric=AUC)
    reading = Reading(form=options.form, best_auc=options.best_auc, base_auc=options.base_auc)
    analysis = analyze(points, reading=reading)
    measured = options.latency()
    candidates = (options.candidates or CANDIDATES) if measured else None
    costs = sizing.costs_of(points, options.points, measured)
    advice = sizing.advise(analysis.laws, costs, budget, base_auc=options.base_auc or 0.0, beyond=options.beyond)
    values = {
        "candidates": candidates,
        "budget": asdict(budget),
        "advice": [asdict(one) for one in advice],
        "warnings": analysis.warnings,
    }
    emit(values, options.as_json, lambda: _show(advice, budget, candidates, analysis.warnings))


def _show(advice: list[Advice], budget: Budget, candidates: int | None, warnings: list[str]) -> None:
    request = "a request" if candidates is None else f"a request of {candidates} candidates"
    limits = {
        "latency": budget.latency_ms and f"at most {budget.latency_ms:g} ms {request}",
        "load": budget.qps and f"{budget.qps:g} requests a second on {budget.cores} cores at {budget.utilisation:.0%}",
        "training": budget.training_hours and f"at most {budget.training_hours:g} h of training",
        "size": budget.params and f"at most {budget.params:,.0f} parameters",
    }
    table("; ".join(str(text) for text in limits.values() if text), COLUMNS, [_cells(one) for one in advice])
    bought = [one for one in advice if one.params is not None]
    if not bought:
        print("no model fits: even the smallest sizes that were trained are too expensive")
        return
    rows = [[one.model, *(_gain(one.returns.get(name)) for name in RETURNS)] for one in bought]
    table("gain in AUC from more of it", ("model", *RETURNS), rows)
    best = bought[0]
    far = ", which lies beyond the sizes that were trained" if best.beyond > 1 else ""
    print(f"best: {best.model} with {best.params:,.0f} parameters{far}")
    for text in warnings:
        print(f"warning: {text}")


def _cells(one: Advice) -> list[str]:
    if one.params is None:
        return [one.model, "-", "-", "-", f"{one.limit}, even at the smallest size", "-", "-", "-", "-", "-"]
    interval = "-" if one.interval is None else f"{one.interval[0]:.4f} to {one.interval[1]:.4f}"
    costs = [one.costs.get(name) for name in ("flops", "latency_ms", "cores", "training_hours")]
    shown = ["-" if value is None else f"{value:,.0f}" if value >= 1e3 else f"{value:.3g}" for value in costs]
    return [one.model, f"{one.params:,.0f}", f"{one.auc:.4f}", interval, one.limit, *shown, f"{one.beyond:.2g}"]


def _gain(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2g}"
