"""Train a recipe: make the run folder, or continue it; one stage or two."""

from __future__ import annotations

from pathlib import Path

from unimixer.data.schema import SPLITS
from unimixer.data.store import Store, find_store
from unimixer.errors import UnimixerError
from unimixer.training.config import Recipe
from unimixer.training.evaluation import check_tasks
from unimixer.training.loop import Trainer
from unimixer.training.model import monitor, rehearse, resolve
from unimixer.training.run import RunFolder

WARM_UP = "warm-up"
"""Folder, inside a two-stage run, of its first stage."""


def train(
    recipe: Recipe, *, folder: Path | None = None, start_from: Path | None = None, quiet: bool = False
) -> RunFolder:
    """Train from the start; returns the finished run.

    Args:
        recipe: what to train on what.
        folder: run folder to make (default: below ``$UNIMIXER_RUNS`` or ``runs``, named after time and seed).
        start_from: run whose best weights are the starting point.
        quiet: say nothing on standard error.
    """
    store = Store(find_store(recipe.store))
    spec, source = store.transform.spec, None if start_from is None else RunFolder(start_from)
    recipe = resolve(recipe, spec).model_copy(update={"store": str(store.folder.resolve())})
    for split in SPLITS:
        check_tasks(store, split, tuple(recipe.tasks))
    _check_monitor(recipe, store)
    rehearse(recipe, spec, source)
    return _continue(RunFolder.create(folder, recipe, store, warm_start=source), store, quiet=quiet)


def resume(folder: Path | str, *, store: Path | None = None, quiet: bool = False) -> RunFolder:
    """Continue an interrupted run; it ends in the same weights as if it had not been interrupted.

    Args:
        folder: the run.
        store: the store, where it moved since the run began.
        quiet: say nothing on standard error.

    Raises:
        UnimixerError: if the data is not what the run began with, or another process is training the run.
    """
    run = RunFolder(folder)
    if run.result is not None:
        return run
    opened = Store(find_store(str(store or run.recipe.store)))
    expected = run.environment["data"]["hash"]
    if opened.hash != expected:
        raise UnimixerError(
            f"{opened.folder} has content {opened.hash}, the run began with {expected}; resume on the same data"
        )
    return _continue(run, opened, quiet=quiet)


def _continue(run: RunFolder, store: Store, *, quiet: bool) -> RunFolder:
    with run.lock():
        start_from = run.warm_start
        if run.recipe.temperature.schedule == "two-stage":
            start_from = _first_stage(run, store, quiet=quiet).folder
        Trainer(run, store, start_from=start_from, quiet=quiet).fit()
    return run


def _first_stage(run: RunFolder, store: Store, *, quiet: bool) -> RunFolder:
    """A whole run at the high temperature; the second stage starts from its weights (arXiv:2604.00590, warm-up)."""
    folder = run.folder / WARM_UP
    if folder.exists():
        stage = RunFolder(folder)
    else:
        temperature = run.recipe.temperature.model_copy(
            update={"schedule": "constant", "end": run.recipe.temperature.start}
        )
        stage = RunFolder.create(folder, run.recipe.model_copy(update={"temperature": temperature}), store)
    if stage.result is None:
        Trainer(stage, store, start_from=run.warm_start, quiet=quiet).fit()
    return stage


def _check_monitor(recipe: Recipe, store: Store) -> None:
    task, metric = monitor(recipe)
    if metric in ("uauc", "gauc") and store.transform.schema.keys.user is None:
        raise UnimixerError(
            f"training.monitor={task}.{metric} needs users, and the schema names no keys.user; monitor {task}.auc"
        )
