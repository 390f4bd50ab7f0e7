"""``unimixer train``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.cli.output import Json, emit, table, takes
from unimixer.cli.runs import show_summary
from unimixer.errors import UnimixerError
from unimixer.metrics.names import ON_DEMAND
from unimixer.settings import Change, read_changes
from unimixer.training.config import load_recipe
from unimixer.training.summary import summarise_runs
from unimixer.training.train import resume as continue_run
from unimixer.training.train import train as train_recipe


@dataclass(frozen=True)
class TrainOptions:
    """Choose the recipe to train, or the run to continue."""

    recipe: Annotated[Path | None, typer.Argument(help="A recipe (YAML), or the name of a packaged one.")] = None
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")] = (
        None
    )
    data: Annotated[str | None, typer.Option("--data", help="Dataset to train on, instead of the recipe's.")] = None
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Run folder to make (default: runs/NAME/TIME-SEED); of several seeds, the folder above."
        ),
    ] = None
    resume: Annotated[Path | None, typer.Option("--resume", help="Run folder to continue.")] = None
    warm_start: Annotated[Path | None, typer.Option("--warm-start", help="Run whose best weights to start from.")] = (
        None
    )
    continued: Annotated[
        Path | None,
        typer.Option("--continue", help="Finished run to go on from: its last weights and optimizer state."),
    ] = None
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Train this many runs, with seeds 0, 1, ... and compare them.")
    ] = None
    device: Annotated[str | None, typer.Option("--device", help="Short for training.device=NAME.")] = None
    as_json: Json = False


@takes(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train a recipe on a prepared dataset, or continue an interrupted run.

    Examples: unimixer train kuairand-unimixer-lite --seeds 3 · unimixer train --resume RUN ·
    torchrun --nproc-per-node=2 -m -- unimixer train recipe.yaml --run RUN
    """
    if options.resume is not None:
        given = (options.recipe, options.overrides, options.run, options.warm_start, options.continued, options.seeds)
        if any(given) or options.device:
            named = f" (given: {options.recipe})" if options.recipe else ""
            raise UnimixerError(
                "a run continues with the recipe it began with: --resume takes no recipe or overrides"
                f"{named}, no --run, --warm-start, --continue, --seeds or --device"
            )
        finished = continue_run(options.resume, dataset=None if options.data is None else Path(options.data))
    elif options.continued is not None and (options.warm_start or options.seeds):
        raise UnimixerError("--continue begins with the last weights of a run: it takes no --warm-start and no --seeds")
    elif options.recipe is None:
        raise UnimixerError("give a recipe to start a run, or --resume RUN to continue one")
    else:
        changes = read_changes(options.overrides or [])
        if options.data is not None:
            changes.append(Change("dataset", options.data, f"--data {options.data}"))
        if options.device is not None:
            changes.append(Change("training.device", options.device, f"--device {options.device}"))
        if options.seeds is not None:
            _train_seeds(options, options.recipe, changes, options.seeds)
            return
        recipe = load_recipe(options.recipe, changes)
        finished = train_recipe(recipe, folder=options.run, start_from=options.warm_start, continued=options.continued)
    result = finished.result or {}
    if os.environ.get("RANK", "0") != "0":  # one process of several prints
        return
    emit({"run": str(finished.folder), **result}, options.as_json, lambda: show_result(str(finished.folder), result))


def _train_seeds(options: TrainOptions, recipe: Path, changes: list[Change], seeds: int) -> None:
    """Train one run a seed, then print mean and spread."""
    recipes = [
        load_recipe(recipe, [*changes, Change("training.seed", seed, f"--seeds {seeds}")]) for seed in range(seeds)
    ]
    folders = [None if options.run is None else options.run / f"seed{seed}" for seed in range(seeds)]
    finished = [train_recipe(r, folder=f, start_from=options.warm_start) for r, f in zip(recipes, folders, strict=True)]
    if os.environ.get("RANK", "0") != "0":
        return
    show_summary(summarise_runs([run.folder for run in finished]), options.as_json)


def show_result(title: str, result: dict[str, Any]) -> None:
    """Print a run's metrics."""
    show_metrics(
        title,
        {split: result[split] for split in ("validation", "test") if split in result},
        result.get("best_reachable_auc"),
    )
    if "samples_per_second" in result:
        print(
            f"{result['dense_parameters']:,} dense and {result['table_parameters']:,} table parameters, "
            f"{result['samples_per_second']:,.0f} samples/s, "
            f"best weights at step {result['best_step']:,} of {result['steps']:,}"
        )


def show_metrics(title: str, splits: dict[str, Any], reachable: dict[str, Any] | None = None) -> None:
    """Print metrics of tasks by split, with the best reachable AUC if it is known."""
    columns = ["split", "task", "AUC", "UAUC", "GAUC", "log loss", "NE", "PCOC", "users counted / left out"]
    rows = []
    excess = any(m.get("excess_log_loss") is not None for tasks in splits.values() for m in tasks.values())
    for split, tasks in splits.items():
        for task, m in tasks.items():
            numbers = [_number(m[k]) for k in ("auc", "uauc", "gauc", "log_loss", "normalised_entropy", "calibration")]
            rows.append([split, task, *numbers, f"{m['users_counted']:,} / {m['users_left_out']:,}"])
            if excess:
                rows[-1].append(_with_error(m.get("excess_log_loss"), m.get("excess_log_loss_error")))
            if reachable:
                rows[-1].append(_number((reachable.get(split) or {}).get(task)))
    columns += ["excess log loss"] if excess else []
    columns += ["best reachable AUC"] if reachable else []
    shown = [m for tasks in splits.values() for m in tasks.values()]
    for name in dict.fromkeys(name for m in shown for name in m if _is_asked(name)):
        columns.append(name)
        for row, m in zip(rows, shown, strict=True):
            row.append(_number(m.get(name)))
    table(title, columns, rows, left=2)


def _is_asked(name: str) -> bool:
    return name.partition("@")[0] in ON_DEMAND


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.5f}" + ("" if error is None else f" +- {error:.5f}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
