"""``unimixer train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.cli.output import Json, emit, table
from unimixer.cli.runs import show_summary
from unimixer.errors import UnimixerError
from unimixer.settings import Change, read_changes
from unimixer.training.config import load_recipe
from unimixer.training.summary import summarise_runs
from unimixer.training.train import resume as continue_run
from unimixer.training.train import train as train_recipe


def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (YAML).")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Store to train on, instead of the recipe's.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Run folder to make (default: runs/NAME/TIME-SEED); of several seeds, the folder above."
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Run folder to continue.")] = None,
    warm_start: Annotated[
        Path | None, typer.Option("--warm-start", help="Run whose best weights to start from.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Train this many runs, with seeds 0, 1, ... and compare them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe on a prepared store, or continue an interrupted run.

    Examples: unimixer train recipes/kuairand-unimixer-lite.yaml --seeds 3 · unimixer train --resume RUN ·
    torchrun --nproc-per-node=2 -m -- unimixer train recipe.yaml --run RUN
    """
    if resume is not None:
        if recipe or overrides or run or warm_start or seeds:
            named = f" (given: {recipe})" if recipe else ""
            raise UnimixerError(
                "a run continues with the recipe it began with: --resume takes no recipe or overrides"
                f"{named}, no --run, --warm-start or --seeds"
            )
        finished = continue_run(resume, store=None if data is None else Path(data))
    elif recipe is None:
        raise UnimixerError("give a recipe to start a run, or --resume RUN to continue one")
    else:
        changes = read_changes(overrides or [])
        if data is not None:
            changes.append(Change("store", data, f"--data {data}"))
        if seeds is not None:
            _train_seeds(recipe, changes, seeds, run, warm_start, as_json=as_json)
            return
        finished = train_recipe(load_recipe(recipe, changes), folder=run, start_from=warm_start)
    result = finished.result or {}
    if os.environ.get("RANK", "0") != "0":  # one process of several prints
        return
    emit({"run": str(finished.folder), **result}, as_json, lambda: show_result(str(finished.folder), result))


def _train_seeds(
    recipe: Path, changes: list[Change], seeds: int, folder: Path | None, warm_start: Path | None, *, as_json: bool
) -> None:
    """Train one run a seed, then print mean and spread."""
    recipes = [
        load_recipe(recipe, [*changes, Change("training.seed", seed, f"--seeds {seeds}")]) for seed in range(seeds)
    ]
    folders = [None if folder is None else folder / f"seed{seed}" for seed in range(seeds)]
    finished = [train_recipe(r, folder=f, start_from=warm_start) for r, f in zip(recipes, folders, strict=True)]
    if os.environ.get("RANK", "0") != "0":
        return
    show_summary(summarise_runs([run.folder for run in finished]), as_json)


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
    columns = ["split", "task", "AUC", "UAUC", "GAUC", "log loss", "NE", "calibration", "users counted / left out"]
    rows = []
    for split, tasks in splits.items():
        for task, m in tasks.items():
            numbers = [_number(m[k]) for k in ("auc", "uauc", "gauc", "log_loss", "normalised_entropy", "calibration")]
            rows.append([split, task, *numbers, f"{m['users_counted']:,} / {m['users_left_out']:,}"])
            if reachable and reachable.get(split):
                rows[-1].append(_number(reachable[split].get(task)))
    table(title, [*columns, *(["best reachable AUC"] if reachable else [])], rows, left=2)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
