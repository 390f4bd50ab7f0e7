"""``unimixer scale run`` and ``unimixer scale transfer``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.output import Json, emit, table
from unimixer.cli.studies import (
    BatchSize,
    Common,
    DryRun,
    Jobs,
    KeepRuns,
    MaxSteps,
    Ray,
    Threads,
    common_recipe,
    machine,
)

if TYPE_CHECKING:
    from unimixer.experiments import Machine
    from unimixer.experiments.run_sweep import PlannedSweep
    from unimixer.experiments.sweep_config import Sweep

HELP = """Train models at many sizes with several seeds and write points for `scale fit`; or go on with it.

One pass over the stream. The learning rate is searched where models are small and carried over by a rule: lr goes as
width^-p. What is done is never done again: the same call, or the folder alone, computes what is missing. Examples:
unimixer scale run --data STORE --models rankmixer,unimixer,unimixer-lite --sizes 0.25M..64M --seeds 3 --out FOLDER ·
unimixer scale run FOLDER --dry-run · unimixer scale run FOLDER --seeds 5"""

TRANSFER_HELP = """Test the rule that carries learning rates over to other sizes: a grid at every size, one seed.

Prints for every size its best rate, the power that would have led there from the smallest size, and what rules with
other powers lose on validation. Example: unimixer scale transfer --data STORE --models rankmixer --sizes 50K,400K
--lr-grid 5e-4,1e-3,2e-3,4e-3,8e-3 --out FOLDER"""

Folder = Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="A sweep that was begun.")]
Data = Annotated[list[str] | None, typer.Option("--data", help="Prepared store; may be given several times.")]
Models = Annotated[list[str] | None, typer.Option("--models", help="BACKBONE[:OPTION=VALUE]..., separated by commas.")]
Sizes = Annotated[str | None, typer.Option("--sizes", help="Dense parameters: 0.25M..64M, or a list 1M,4M,16M.")]
PointsOption = Annotated[int | None, typer.Option("--points", min=2, help="Sizes of a range (default: by factor 4).")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the sweep; one that exists is continued.")]
Dial = Annotated[str | None, typer.Option("--dial", help="What grows: width, depth or both (default width).")]
Grid = Annotated[str | None, typer.Option("--lr-grid", help="Rates to choose from (default 5e-4,1e-3,...,8e-3).")]
SparseRate = Annotated[float | None, typer.Option("--sparse-lr", help="Rate of the embedding tables (default 1e-3).")]

COLUMNS = (
    *("data", "model", "dense parameters", "FLOPs/sample", "blocks", "width", "rate", "rows", "to compute"),
    *("samples/s", "seconds a row", "seconds"),
)


def run(
    folder: Folder = None,
    data: Data = None,
    models: Models = None,
    sizes: Sizes = None,
    points: PointsOption = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of a size (default 3).")] = None,
    out: Out = None,
    dial: Dial = None,
    lr_grid: Grid = None,
    lr_power: Annotated[
        float | None, typer.Option("--lr-power", min=0.0, help="p of the rule lr = base (width / base)^-p.")
    ] = None,
    lr_search: Annotated[
        str | None, typer.Option("--lr-search", help="smallest: p is given. two: p follows from two sizes.")
    ] = None,
    sparse_lr: SparseRate = None,
    batch_size: BatchSize = None,
    max_steps: MaxSteps = None,
    settings: Common = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=0, help="Rows of a request whose latency is measured in the end; 0: no.")
    ] = 500,
    jobs: Jobs = None,
    threads: Threads = 1,
    ray: Ray = None,
    dry_run: DryRun = False,
    keep_runs: KeepRuns = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.analysis.costs import ladder_latencies
    from unimixer.analysis.points import POINTS
    from unimixer.experiments.points_file import write_points
    from unimixer.experiments.run_sweep import compute_sweep, plan_sweep
    from unimixer.workers.ray import executor_on

    given = _given(data, models, sizes, points, seeds, dial, lr_grid, lr_power, lr_search, sparse_lr)
    sweep, place = _sweep(folder, out, given, common_recipe(settings, batch_size, max_steps))
    here, executor = machine(jobs, threads), executor_on(ray)
    planned = plan_sweep(sweep, place, here, keep_speeds=not dry_run, executor=executor)
    values = _plan_values(planned, here)
    if not as_json:
        _show_plan(planned, values)
    if dry_run:
        emit({"folder": str(place), **values}, as_json, lambda: None)
        return
    more = "" if ray is None else f" --ray {ray}"
    outcome = compute_sweep(planned, place, here, keep_runs=keep_runs, executor=executor, more=more)
    if candidates:
        latency = ladder_latencies(planned.ladders, place, candidates=candidates, threads=threads)
        write_points(place, planned.ladders, latency)
    done: dict[str, Any] = {
        "folder": str(place),
        "computed": len(outcome.computed),
        "found": outcome.found,
        "failed": {row["key"]: row["error"] for row in outcome.failed},
        "points": str(place / POINTS),
        "rates": {ladder.name: vars(ladder.transfer) if ladder.transfer else None for ladder in planned.ladders},
    }
    emit(done, as_json, lambda: _show_done(done))
    if outcome.failed:
        raise typer.Exit(1)


def transfer(
    folder: Folder = None,
    data: Data = None,
    models: Models = None,
    sizes: Sizes = None,
    out: Out = None,
    dial: Dial = None,
    lr_grid: Grid = None,
    sparse_lr: SparseRate = None,
    batch_size: BatchSize = None,
    max_steps: MaxSteps = None,
    settings: Common = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """See :data:`TRANSFER_HELP`."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments.lr_transfer import losses
    from unimixer.experiments.run_sweep import PlannedSweep, try_rates
    from unimixer.experiments.sweep_config import build_ladders, open_sweep
    from unimixer.workers.ray import executor_on

    given = _given(data, models, sizes, None, None, dial, lr_grid, None, None, sparse_lr)
    sweep, place = _sweep(folder, out, given, common_recipe(settings, batch_size, max_steps))
    if len(sweep.params) < 2 or len(sweep.dense_lr) < 3:
        raise UnimixerError("the rule is tested at two sizes or more, on a grid of three rates or more")
    sweep = open_sweep(sweep, place)
    planned = PlannedSweep(sweep, *build_ladders(sweep))
    trials, outcome = try_rates(planned, place, machine(jobs, threads), executor=executor_on(ray))
    lines = losses(trials)
    grids: list[dict[str, Any]] = [
        {"model": one.model, "parameters": one.params, "width": round(one.width, 1), "metrics": dict(one.metrics)}
        for one in trials
    ]
    values = {"folder": str(place), "grids": grids, "rules": lines, "failed": [r["key"] for r in outcome.failed]}

    def show() -> None:
        for grid in grids:
            found = "  ".join(f"{rate:g}: {value:.5f}" for rate, value in sorted(grid["metrics"].items()))
            print(f"{grid['model']} at {grid['parameters']:,} (width {grid['width']:g}), validation by rate: {found}")
        columns = list(lines[0])
        table("what a rule loses against the best rate of a size", columns, [list(one.values()) for one in lines])

    emit(values, as_json, show)


def _given(
    data: list[str] | None,
    models: list[str] | None,
    sizes: str | None,
    points: int | None,
    seeds: int | None,
    dial: str | None,
    lr_grid: str | None,
    lr_power: float | None,
    lr_search: str | None,
    sparse_lr: float | None,
) -> dict[str, Any]:
    """The fields of a sweep that were given on the command line."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments.sizes import parse_sizes
    from unimixer.experiments.study_config import split_models

    if points is not None and sizes is None:
        raise UnimixerError(f"--points {points} needs a range: --sizes 0.25M..64M")
    found: dict[str, Any] = {"data": data or None, "seeds": seeds, "dial": dial, "lr_power": lr_power}
    found |= {"lr_search": lr_search, "sparse_lr": None if sparse_lr is None else [sparse_lr]}
    found["params"] = None if sizes is None else parse_sizes(sizes, points)
    found["models"] = [model for text in models for model in split_models(text)] if models else None
    found["dense_lr"] = None if lr_grid is None else [part.strip() for part in lr_grid.split(",") if part.strip()]
    return {name: value for name, value in found.items() if value is not None}


def _sweep(source: Path | None, out: Path | None, given: dict[str, Any], recipe: dict[str, Any]) -> tuple[Sweep, Path]:
    """The sweep that was asked for, and its folder; a folder that holds one is its own plan."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments.sweep_config import SWEEP, Sweep, is_sweep, read_sweep
    from unimixer.settings import Document, load_yaml, parse

    folder = source or out
    if folder is None:
        raise UnimixerError("where to? give --out FOLDER, or the folder of a sweep that was begun")
    if source is not None and not is_sweep(source):
        read_sweep(source)
    if source is not None and out is not None and out.resolve() != source.resolve():
        raise UnimixerError(f"{source} is a sweep that goes on in its own folder; leave out --out {out}")
    values = load_yaml(folder / SWEEP) if is_sweep(folder) else Document({}, {})
    for field, option in (("data", "--data STORE"), ("models", "--models A,B"), ("params", "--sizes 0.25M..64M")):
        if field not in {**values, **given}:
            name = "sizes" if field == "params" else field
            raise UnimixerError(f"a sweep needs {name}: give {option}")
    if recipe:
        given = {**given, "recipe": {**(values.get("recipe") or {}), **recipe}}
    whole = values.with_values(given, "command line")
    return parse(Sweep, whole, where=str(folder / SWEEP) if values else "sweep"), folder


def _plan_values(planned: PlannedSweep, place: Machine) -> dict[str, Any]:
    return {
        "plan": planned.table(),
        "left_out": planned.left_out,
        "rows": planned.total,
        "to_compute": planned.missing,
        "training_flops": planned.flops(),
        "processes": place.workers,
        "expected_seconds": round(planned.seconds(place.workers)),
    }


def _show_plan(planned: PlannedSweep, values: dict[str, Any]) -> None:
    from unimixer.progress import duration

    rows = [[_cell(line[column]) for column in COLUMNS] for line in values["plan"]]
    table(None, COLUMNS, rows, left=2)
    for what, reason in values["left_out"].items():
        print(f"left out: {what}: {reason}")
    sweep = planned.sweep
    if len(sweep.dense_lr) > 1:
        where = "the smallest size" if len(sweep.anchors) == 1 else "two sizes, which give p"
        rule = f"lr = base (width / base width)^-{'p' if len(sweep.anchors) > 1 else f'{sweep.lr_power:g}'}"
        print(f"rates: {len(sweep.dense_lr)} tried with the first seed at {where}; then {rule}")
    processes = values["processes"]
    print(
        f"{values['to_compute']} of {values['rows']} rows to compute in {processes} "
        f"{'process' if processes == 1 else 'processes'}, {values['training_flops']:.3g} FLOPs of training, "
        f"about {duration(values['expected_seconds'])} at the speed just measured"
    )


def _show_done(values: dict[str, Any]) -> None:
    print(f"{values['computed']} rows computed, {values['found']} were there")
    for key, error in values["failed"].items():
        print(f"failed: {key}: {error}")
    for model, rule in values["rates"].items():
        if rule is None:
            print(f"{model}: no rate was found, every run of its search failed; the next call tries them again")
        elif rule["at_edge"]:
            print(f"{model}: the best rate, {rule['rate']:g}, is an end of the grid; widen it: --lr-grid")
    print(f"points: {values['points']}   next: unimixer scale fit {values['folder']}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and value < 1:
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
