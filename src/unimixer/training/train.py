"""Train a recipe: make the run folder, or continue it; one stage or two."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from unimixer.data.dataset import Store, find_store
from unimixer.data.schema import SPLITS
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.progress import say
from unimixer.training.config import Recipe
from unimixer.training.distributed import World, agree, check_triple, launched, world_of
from unimixer.training.distributed.consolidate import take_over
from unimixer.training.evaluation import check_tasks
from unimixer.training.loop import Trainer
from unimixer.training.model import monitor, rehearse, resolve
from unimixer.training.run import RunFolder
from unimixer.training.warm_start import WarmStart, in_the_order_of

WARM_UP = "warm-up"
"""Folder, inside a two-stage run, of its first stage."""


@states_kept()
def train(
    recipe: Recipe, *, folder: Path | None = None, start_from: Path | None = None, quiet: bool = False
) -> RunFolder:
    """Train from the start; returns the finished run.

    Under torchrun all processes call this alike and train one run together. Where torchrun has started them again
    after a failure, an existing ``folder`` is the run to go on with.

    Args:
        recipe: what to train on what.
        folder: run folder to make (default: below ``$UNIMIXER_RUNS`` or ``runs``, named after time and seed).
        start_from: run whose best weights are the starting point, also where the data was prepared anew: a row of a
            table goes where the text of its id is. What was kept, is new or was lost is said and kept in the folder.
        quiet: say nothing on standard error.
    """
    if launched():
        check_triple()
    store = Store(find_store(recipe.store))
    spec, source = store.transform.spec, None if start_from is None else RunFolder(start_from)
    recipe = resolve(recipe, spec).model_copy(update={"store": str(store.folder.resolve())})
    for split in SPLITS:
        check_tasks(store, split, tuple(recipe.tasks))
    _check_monitor(recipe, store)
    facts, said = None, list[str]()
    if source is not None:
        recipe = in_the_order_of(source, recipe, store.transform)
    model = rehearse(recipe, spec)
    if source is not None:
        start = WarmStart(source, model, store.transform)
        start.state(model)
        facts, said = start.facts(), start.lines()
        del start
    with world_of(recipe.distributed.timeout) as world:
        agree(world, recipe, store, folder=folder, warm_start=start_from)
        recipe = _with_shards(recipe, world)

        def create() -> Path:
            if _started_again(folder):
                assert folder is not None
                return _same_run(folder, recipe, store)
            made = RunFolder.create(folder, recipe, store, warm_start=facts).folder
            if said and not quiet:
                say("\n".join(said))
            return made

        run = RunFolder(world.lead(create))
        return run if run.result is not None else _continue(run, store, quiet=quiet, world=world)


def _with_shards(recipe: Recipe, world: World) -> Recipe:
    """The recipe with its number of data shards, which a run on several processes keeps wherever it goes on."""
    if not world.distributed or recipe.distributed.data_shards is not None:
        return recipe
    return recipe.model_copy(update={"distributed": recipe.distributed.model_copy(update={"data_shards": world.size})})


def _started_again(folder: Path | None) -> bool:
    """Whether torchrun has started the processes again, so that the folder is theirs already."""
    if folder is None and launched() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise UnimixerError("torchrun --max-restarts needs --run FOLDER, so that a restart finds its run again")
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return folder is not None and launched() and again > 0 and folder.exists()


def _same_run(folder: Path, recipe: Recipe, store: Store) -> Path:
    run = RunFolder(folder)
    if run.recipe != recipe or run.environment["data"]["hash"] != store.hash:
        raise UnimixerError(f"{folder} is the run of another recipe or other data; choose another --run")
    return folder


@states_kept()
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
    if launched():
        check_triple()
    opened = Store(find_store(str(store or run.recipe.store)))
    expected = run.environment["data"]["hash"]
    if opened.hash != expected:
        raise UnimixerError(
            f"{opened.folder} has content {opened.hash}, the run began with {expected}; resume on the same data"
        )
    if not launched():
        take_over(run)
    with world_of(run.recipe.distributed.timeout) as world:
        agree(world, run.recipe, opened, folder=run.folder)
        return _continue(run, opened, quiet=quiet, world=world)


def _continue(run: RunFolder, store: Store, *, quiet: bool, world: World) -> RunFolder:
    with ExitStack() as stack:
        world.lead(lambda: stack.enter_context(run.lock()))
        start_from = run.warm_start
        if run.recipe.temperature.schedule == "two-stage":
            start_from = _first_stage(run, store, quiet=quiet, world=world).folder
        Trainer(run, store, start_from=start_from, quiet=quiet, world=world).fit()
    return run


def _first_stage(run: RunFolder, store: Store, *, quiet: bool, world: World) -> RunFolder:
    """A whole run at the high temperature; the second stage starts from its weights (arXiv:2604.00590, warm-up)."""
    folder = run.folder / WARM_UP

    def create() -> None:
        if not folder.exists():
            temperature = run.recipe.temperature.model_copy(
                update={"schedule": "constant", "end": run.recipe.temperature.start}
            )
            RunFolder.create(folder, run.recipe.model_copy(update={"temperature": temperature}), store)

    world.lead(create)
    stage = RunFolder(folder)
    if stage.result is None:
        Trainer(stage, store, start_from=run.warm_start, quiet=quiet, world=world).fit()
    return stage


def _check_monitor(recipe: Recipe, store: Store) -> None:
    task, metric = monitor(recipe)
    if metric in ("uauc", "gauc") and store.transform.schema.keys.user is None:
        raise UnimixerError(
            f"training.monitor={task}.{metric} needs users, and the schema names no keys.user; monitor {task}.auc"
        )
