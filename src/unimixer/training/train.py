"""Train a recipe: make the run folder, or continue it; one stage or two."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from unimixer.data.dataset import Dataset, open_dataset
from unimixer.data.schema import SPLITS
from unimixer.data.stream import check_steps
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.metrics.names import metrics_of_lists
from unimixer.progress import note, say
from unimixer.training.config import Recipe, TemperatureConfig
from unimixer.training.consolidate import consolidate_best
from unimixer.training.continuation import Continuation, rows_to_train
from unimixer.training.distributed.checks import check_same_config, check_versions
from unimixer.training.distributed.strategy import ShardedStrategy
from unimixer.training.evaluation import check_chain, check_tasks
from unimixer.training.loop import Trainer
from unimixer.training.model import monitor, resolve, settings_without_effect, validate_recipe
from unimixer.training.observer import UNOBSERVED, Observer
from unimixer.training.pretrained import read_pretrained
from unimixer.training.process_group import ProcessGroup, join_processes, launched
from unimixer.training.run import RunFolder, dataset_to_resume
from unimixer.training.sinks import check_trackers
from unimixer.training.strategy import UNSHARDED, Strategy
from unimixer.training.warm_start import WarmStart, with_field_order_of

WARM_UP = "warm-up"
"""Folder of the first stage inside a two-stage run."""


@states_kept()
def train(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    start_from: Path | None = None,
    continued: Path | None = None,
    dataset: Dataset | None = None,
    quiet: bool = False,
    observer: Observer = UNOBSERVED,
) -> RunFolder:
    """Train from the start; return the finished run.

    Under torchrun all processes call this alike and train one run together. If torchrun has restarted them after a
    failure, they continue the run in an existing ``folder``.

    Args:
        recipe: the model, the data and the training.
        folder: run folder to make (default: below ``$UNIMIXER_RUNS`` or ``runs``, named after time and seed).
        start_from: run whose best weights are the starting point, also on data that was prepared anew: a row of a
            table goes to the id with the same text. Kept, new and lost rows are printed and recorded in the folder.
        continued: finished run to go on from, with its last weights, the state of its optimizers and its final
            temperature. On a dataset that has grown from that of the run only the rows train that are new.
        dataset: the data, perhaps as it was before later days (default: that of the recipe).
        quiet: print nothing on standard error.
        observer: hears the evaluations.
    """
    if launched():
        check_versions()
    dataset = dataset or open_dataset(recipe.dataset)
    origin = continued or start_from
    spec, source = dataset.transform.spec, None if origin is None else RunFolder(origin)
    if continued is not None:
        recipe = recipe.model_copy(update={"temperature": TemperatureConfig(end=recipe.temperature.end)})
    recipe = resolve(recipe, spec).model_copy(update={"dataset": str(dataset.folder.resolve())})
    for split in SPLITS:
        check_tasks(dataset, split, tuple(recipe.tasks))
    check_chain(dataset, recipe.model.chain)
    _check_monitor(recipe, dataset)
    check_steps(dataset, recipe.training.max_steps)
    facts, lines, fill = None, list[str](), None
    if source is not None:
        recipe = with_field_order_of(source, recipe, dataset.transform)
    model = validate_recipe(recipe, spec)
    lines += settings_without_effect(recipe, model)
    read_pretrained(recipe, dataset.transform, model)  # refuses a file that does not fit
    check_trackers(recipe)
    if source is not None:
        if continued is None:
            start = WarmStart(source, model, dataset.transform)
        else:
            start = Continuation(source, model, dataset.transform, recipe)
            dataset.since(start.since)
            fill = start.write
        start.state(model)
        facts, lines = start.facts(), [*lines, *start.lines()]
        del start
    with join_processes(recipe.distributed.timeout) as processes:
        check_same_config(processes, recipe, dataset, folder=folder, warm_start=origin)
        recipe = _with_shards(recipe, processes)

        def create() -> Path:
            if _started_again(folder):
                assert folder is not None
                return _same_run(folder, recipe, dataset)
            made = RunFolder.create(folder, recipe, dataset, warm_start=facts, fill=fill).folder
            if lines and not quiet:
                say("\n".join(lines))
            return made

        run = RunFolder(processes.on_rank_zero(create))
        return run if run.result is not None else _continue(run, dataset, processes, quiet, observer)


def _with_shards(recipe: Recipe, processes: ProcessGroup) -> Recipe:
    """Add the number of data shards, which a run keeps when it continues on another number of processes."""
    if not processes.distributed or recipe.distributed.data_shards is not None:
        return recipe
    distributed = recipe.distributed.model_copy(update={"data_shards": processes.size})
    return recipe.model_copy(update={"distributed": distributed})


def _started_again(folder: Path | None) -> bool:
    """Tell whether torchrun has restarted the processes, so that the folder is already theirs."""
    if folder is None and launched() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise UnimixerError("torchrun --max-restarts needs --run FOLDER, so that a restart finds its run again")
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return folder is not None and launched() and again > 0 and folder.exists()


def _same_run(folder: Path, recipe: Recipe, dataset: Dataset) -> Path:
    run = RunFolder(folder)
    if run.recipe != recipe or run.environment["data"]["hash"] != dataset.hash:
        raise UnimixerError(f"{folder} is the run of another recipe or other data; choose another --run")
    return folder


@states_kept()
def resume(
    folder: Path | str, *, dataset: Path | None = None, quiet: bool = False, observer: Observer = UNOBSERVED
) -> RunFolder:
    """Continue an interrupted run; it ends in the same weights as if it had not been interrupted.

    Args:
        folder: the run.
        dataset: the dataset, if it has moved since the run began.
        quiet: print nothing on standard error.
        observer: hears the evaluations.

    Raises:
        UnimixerError: if the data differs from that of the start, or another process is training the run.
    """
    run = RunFolder(folder)
    if run.result is not None:
        if not quiet:
            note(f"{run.folder} is finished, so nothing is left to train")
        return run
    if launched():
        check_versions()
    opened = dataset_to_resume(run, dataset)
    if not launched():
        consolidate_best(run)
    with join_processes(run.recipe.distributed.timeout) as processes:
        check_same_config(processes, run.recipe, opened, folder=run.folder)
        return _continue(run, opened, processes, quiet, observer)


def _continue(run: RunFolder, dataset: Dataset, processes: ProcessGroup, quiet: bool, observer: Observer) -> RunFolder:
    strategy = ShardedStrategy(processes) if processes.distributed else UNSHARDED
    dataset = rows_to_train(run, dataset)
    with ExitStack() as stack:
        processes.on_rank_zero(lambda: stack.enter_context(run.lock()))
        start_from = run.warm_start
        if run.recipe.temperature.schedule == "two-stage":
            start_from = _first_stage(run, dataset, strategy, quiet, observer.of_first_stage()).folder
        Trainer(run, dataset, start_from=start_from, quiet=quiet, strategy=strategy, observer=observer).fit()
    return run


def _first_stage(run: RunFolder, dataset: Dataset, strategy: Strategy, quiet: bool, observer: Observer) -> RunFolder:
    """Train a whole run at the high temperature, from which the second stage starts (arXiv:2604.00590, warm-up)."""
    folder = run.folder / WARM_UP

    def create() -> None:
        if not folder.exists():
            temperature = run.recipe.temperature.model_copy(
                update={"schedule": "constant", "end": run.recipe.temperature.start}
            )
            RunFolder.create(folder, run.recipe.model_copy(update={"temperature": temperature}), dataset)

    strategy.processes.on_rank_zero(create)
    stage = RunFolder(folder)
    if stage.result is None:
        Trainer(stage, dataset, start_from=run.warm_start, quiet=quiet, strategy=strategy, observer=observer).fit()
    return stage


def _check_monitor(recipe: Recipe, dataset: Dataset) -> None:
    task, metric = monitor(recipe)
    if metric == "excess_log_loss" and task not in dataset.transform.schema.truths:
        raise UnimixerError(
            f"training.monitor={task}.{metric} needs the true probability, and no soft label of the schema reads it; "
            f"monitor {task}.log_loss"
        )
    if dataset.transform.schema.keys.user is None and (of_lists := metrics_of_lists(recipe.metrics)):
        raise UnimixerError(
            f"metrics: {of_lists[0]} is measured in the lists of users, and the schema names no keys.user; leave it out"
        )
    if metric in ("uauc", "gauc") and dataset.transform.schema.keys.user is None:
        raise UnimixerError(
            f"training.monitor={task}.{metric} needs users, and the schema names no keys.user; monitor {task}.auc"
        )
