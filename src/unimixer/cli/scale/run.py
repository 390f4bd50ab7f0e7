"""``unimixer scale run`` and ``unimixer scale transfer``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.experiment import (
    Data,
    DryRun,
    KeepRuns,
    TrainingOptions,
    finish,
    folder_of,
    plan_of,
    show_plan,
    split,
)
from unimixer.cli.output import emit, table, takes

if TYPE_CHECKING:
    from unimixer.experiments import Sweep
    from unimixer.experiments.lr_search import Transfer


@dataclass(frozen=True)
class SweepOptions(TrainingOptions):
    """Options of the verbs that train models at many sizes."""

    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="A sweep that was begun.")] = None
    data: Data = None
    models: Annotated[
        list[str] | None, typer.Option("--models", help="BACKBONE[:OPTION=VALUE]..., separated by commas.")
    ] = None
    sizes: Annotated[str | None, typer.Option("--sizes", help="Dense parameters: 0.25M..64M, or a list 1M,4M,16M.")] = (
        None
    )
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the sweep; an existing one is continued.")] = None
    dial: Annotated[str | None, typer.Option("--dial", help="What grows: width, depth or both (default width).")] = None
    lr_grid: Annotated[
        str | None, typer.Option("--lr-grid", help="Rates to choose from (default 5e-4,1e-3,...,8e-3).")
    ] = None
    sparse_lr: Annotated[
        float | None, typer.Option("--sparse-lr", help="Rate of the embedding tables (default 1e-3).")
    ] = None

    def values(self) -> dict[str, Any]:
        """Return the fields of a sweep that the command line sets."""
        from unimixer.experiments.models import split_models

        values = {
            "data": self.data or None,
            "models": [model for text in self.models for model in split_models(text)] if self.models else None,
            "params": self.counts(),
            "dial": self.dial,
            "dense_lr": None if self.lr_grid is None else split(self.lr_grid),
            "sparse_lr": None if self.sparse_lr is None else [self.sparse_lr],
        }
        return {name: value for name, value in values.items() if value is not None}

    def counts(self) -> list[int] | None:
        """Return the sizes as numbers of dense parameters."""
        from unimixer.experiments.sizes import parse_sizes

        return None if self.sizes is None else parse_sizes(self.sizes)

    def plan(self) -> tuple[Sweep, Path]:
        """Return the plan and the folder of the sweep; a folder that holds a sweep is its own plan."""
        from unimixer.experiments import Sweep
        from unimixer.experiments.plan_file import is_begun, read_plan

        values = self.values()
        if self.folder is not None and not is_begun(self.folder, Sweep):
            read_plan(self.folder, Sweep)
        folder = folder_of(Sweep, self.folder, self.out)
        path = folder / Sweep.file if is_begun(folder, Sweep) else None
        needs = {
            "data": "a sweep needs data: give --data DATASET",
            "models": "a sweep needs models: give --models A,B",
            "params": "a sweep needs sizes: give --sizes 0.25M..64M",
        }
        return plan_of(Sweep, path, values, self.recipe(), needs), folder


@dataclass(frozen=True)
class RunOptions(SweepOptions):
    """Options of ``unimixer scale run``."""

    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of a size (default 3).")] = None
    points: Annotated[int | None, typer.Option("--points", min=2, help="Sizes of a range (default: by factor 4).")] = (
        None
    )
    lr_power: Annotated[
        float | None, typer.Option("--lr-power", min=0.0, help="p of the rule lr = base (width / base)^-p.")
    ] = None
    lr_search: Annotated[
        str | None,
        typer.Option("--lr-search", help="smallest: p is given. two: p follows from two sizes. every: no rule."),
    ] = None
    candidates: Annotated[
        int, typer.Option("--candidates", min=0, help="Rows of a request whose latency is measured in the end; 0: no.")
    ] = 500
    dry_run: DryRun = False
    keep_runs: KeepRuns = False

    def values(self) -> dict[str, Any]:
        """Return the fields of a sweep that the command line sets."""
        own = {"seeds": self.seeds, "lr_power": self.lr_power, "lr_search": self.lr_search}
        return super().values() | {name: value for name, value in own.items() if value is not None}

    def counts(self) -> list[int] | None:
        """Return the sizes as numbers of dense parameters."""
        from unimixer.errors import UnimixerError
        from unimixer.experiments.sizes import parse_sizes

        if self.points is not None and self.sizes is None:
            raise UnimixerError(f"--points {self.points} needs a range: --sizes 0.25M..64M")
        return None if self.sizes is None else parse_sizes(self.sizes, self.points)


@takes(RunOptions)
def run(options: RunOptions) -> None:
    """Train models at many sizes with several seeds and write points for `scale fit`; or continue a sweep.

    Training is one pass over the data. The learning rate is searched at the smallest size and carried to the others by
    a rule, lr ~ width^-p. Finished rows are kept: the same call, or the folder alone, computes the missing ones.
    Examples: unimixer scale run --data DATASET --models rankmixer,unimixer,unimixer-lite --sizes 0.25M..64M --seeds 3
    --out FOLDER · unimixer scale run FOLDER --dry-run · unimixer scale run FOLDER --seeds 5
    """
    from unimixer.data.dataset import Dataset
    from unimixer.experiments import plan_experiment
    from unimixer.experiments.experiment import request_latencies
    from unimixer.experiments.results import POINTS
    from unimixer.profiling.latency import check_candidates

    sweep, folder = options.plan()
    experiment = plan_experiment(sweep, folder, options.machine(), keep_speeds=not options.dry_run)
    for dataset in experiment.plan.data:  # before hours of training, not after them
        check_candidates(Dataset(dataset.path), options.candidates)
    values = experiment.values()
    if not options.as_json:
        show_plan(experiment, values)
    if options.dry_run:
        emit({"folder": str(folder), **values}, options.as_json, lambda: None)
        return
    outcome = experiment.compute(keep_runs=options.keep_runs)
    if options.candidates:
        latency = request_latencies(experiment.series, folder, candidates=options.candidates, threads=options.threads)
        experiment.write_points(latency)
    rules = {one.words: one.transfer for one in experiment.transfers}
    points = str(folder / POINTS)
    written = {"points": points, "rates": {name: vars(rule) if rule else None for name, rule in rules.items()}}
    lines = [line for name, rule in rules.items() for line in _remarks(name, rule)]
    lines.append(f"points: {points}   next: unimixer scale fit {folder}")
    finish(folder, outcome, written, lines, as_json=options.as_json)


@takes(SweepOptions)
def transfer(options: SweepOptions) -> None:
    """Test the rule that carries learning rates over to other sizes: a grid at every size, one seed.

    Prints the best rate of every size, the power that leads to it from the smallest size, and the loss of rules with
    other powers on validation. Example: unimixer scale transfer --data DATASET --models rankmixer --sizes 50K,400K
    --lr-grid 5e-4,1e-3,2e-3,4e-3,8e-3 --out FOLDER
    """
    from unimixer.errors import UnimixerError
    from unimixer.experiments import size_experiment
    from unimixer.experiments.lr_search import losses
    from unimixer.metrics import lower_is_better

    sweep, folder = options.plan()
    if len(sweep.params) < 2 or len(sweep.dense_lr) < 3:
        raise UnimixerError("the rule is tested at two sizes or more, on a grid of three rates or more")
    trials, outcome = size_experiment(sweep, folder, options.machine()).try_rates()
    rules, metric = losses(trials), sweep.monitor or "AUC of the first task"
    sign = -1 if lower_is_better(metric.rsplit(".", 1)[-1]) else 1  # a trial has what is larger where it is better
    grids: list[dict[str, Any]] = [
        {"model": one.model, "parameters": one.params, "width": round(one.width, 1)}
        | {"metrics": {rate: sign * value for rate, value in sorted(one.metrics.items())}}
        for one in trials
    ]
    values = {"folder": str(folder), "metric": metric, "grids": grids, "rules": rules}
    values |= {"failed": [r["key"] for r in outcome.failed]}

    def show() -> None:
        for grid in grids:
            metrics = "  ".join(f"{rate:g}: {value:.5f}" for rate, value in grid["metrics"].items())
            where = f"{grid['model']} at {grid['parameters']:,} (width {grid['width']:g})"
            print(f"{where}, {metric} on validation by rate: {metrics}")
        columns = list(rules[0])
        table("what a rule loses against the best rate of a size", columns, [list(one.values()) for one in rules])

    emit(values, options.as_json, show)


def _remarks(model: str, rule: Transfer | None) -> list[str]:
    """Say what a reader must know about the learning rates of a model."""
    if rule is None:
        return [f"{model}: no rate was found, every run of its search failed; the next call tries them again"]
    if rule.at_edge:
        return [f"{model}: the best rate, {rule.rate:g}, is an end of the grid; widen it: --lr-grid"]
    return []
