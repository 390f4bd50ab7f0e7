"""The work of a process that trains trials: a whole run, or one that ends early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.experiments.tuning.storage import open_study
from unimixer.experiments.worker import answer, remove_weights
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import monitor
from unimixer.training.observer import Observer
from unimixer.training.run import RunFolder
from unimixer.training.train import resume, train
from unimixer.workers.executor import Report


class PrunedError(UnimixerError):
    """A trial is worse than the median of the finished ones at the same evaluation."""


def run_folder(folder: Path, number: int) -> Path:
    """Return the folder of the run of a trial."""
    return folder / "runs" / f"trial-{number:05d}"


def handle(task: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train a trial in a worker of an executor; there are no reports, because the journal has the evaluations."""
    return answer(lambda: train_trial(task))


def train_trial(task: dict[str, Any]) -> dict[str, Any]:
    """Train one trial, or continue it, and return the metric of its best weights on validation, or None if pruned."""
    from optuna.trial import Trial

    folder, number = Path(task["folder"]), int(task["number"])
    trial = Trial(open_study(folder), task["trial"])
    known = set(trial.study.get_trials(deepcopy=False)[number].intermediate_values)

    def evaluated(evaluation: int, last: int, value: float) -> None:
        if evaluation not in known:  # a run that goes on from a checkpoint comes to some evaluations again
            trial.report(value, evaluation)
        if evaluation < last and trial.should_prune():
            raise PrunedError(f"pruned at evaluation {evaluation} of {last}: worse than the median of finished trials")

    recipe = parse(Recipe, task["recipe"], where="recipe")
    run, observer = run_folder(folder, number), Observer(("validation",), evaluated)
    try:
        if run.exists():
            finished = resume(run, quiet=True, observer=observer)
        else:
            finished = train(recipe, folder=run, quiet=True, observer=observer)
    except PrunedError:
        remove_weights(run)
        return {"value": None}
    remove_weights(run)
    return {"value": _value(finished)}


def _value(run: RunFolder) -> float:
    task, metric = monitor(run.recipe)
    return float((run.result or {})["validation"][task][metric])
