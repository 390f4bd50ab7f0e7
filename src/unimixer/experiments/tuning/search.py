"""Search for settings: trials are drawn one by one, trained by workers, and kept until there are enough."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimixer.experiments.drive import drive
from unimixer.experiments.executor import Machine, study_lock
from unimixer.experiments.plan_file import LOG
from unimixer.experiments.progress_view import position
from unimixer.experiments.tuning.plan import OpenSearch, write_search
from unimixer.experiments.tuning.space import has_effect, own_value
from unimixer.experiments.tuning.storage import (
    FAILED,
    FINISHED,
    PRUNED,
    RUNNING,
    TrialRow,
    mend_journal,
    need_optuna,
    open_study,
    read_trials,
    sampler,
)
from unimixer.experiments.tuning.trial import handle, run_folder
from unimixer.experiments.worker import failure, remove_weights
from unimixer.io import write_text
from unimixer.progress import SILENCE, say
from unimixer.settings import override
from unimixer.settings.document import dump_values
from unimixer.training.checkpoint import remove_leftovers
from unimixer.workers.executor import Reply

if TYPE_CHECKING:
    from optuna.trial import Trial

BEST = "best.yaml"
"""File of the recipe with the settings of the best trial."""


def run_search(
    search: OpenSearch, trials: int, machine: Machine | None = None, *, quiet: bool = False
) -> list[TrialRow]:
    """Train trials until the search has as many as asked for, those of earlier calls counted; write the best recipe.

    Args:
        search: a plan that was checked.
        trials: number of trials in the end.
        machine: processes and threads (default: one of each).
        quiet: print nothing on standard error.

    Returns:
        All trials.

    Raises:
        StoppedError: by Ctrl-C or SIGTERM; running trials have checkpoints, and the next call continues them.
    """
    need_optuna()
    machine, folder = machine or Machine(), search.folder
    with study_lock(folder):
        remove_leftovers(folder)
        mend_journal(folder)
        write_search(search)
        engine = _Engine(search, trials, machine, quiet=quiet)
        drive(engine, machine.executor(folder / LOG, handle))
        rows = read_trials(folder)
        best = best_trial(search, rows)
        if best is not None:
            write_text(folder / BEST, best_recipe(search, rows, best, machine.threads))
    return rows


def best_trial(search: OpenSearch, rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the first of the best finished trials, or None if none has finished."""
    finished = [row for row in rows if row.state == FINISHED and row.value is not None]
    sign = -1 if search.lower_is_better else 1
    return max(finished, key=lambda row: sign * (row.value or 0.0), default=None)


def count_words(rows: Sequence[TrialRow]) -> str:
    """Say how many trials there are and how they ended."""
    counts = Counter(row.state for row in rows)
    states = [f"{counts[state]} {state}" for state in (FINISHED, PRUNED, FAILED, RUNNING) if counts[state]]
    return f"{len(rows)} trials: {', '.join(states)}"


def recipe_of(search: OpenSearch, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the recipe with the settings of a trial."""
    origins = {dimension.key: dimension for dimension in search.space}
    return override(search.plan.recipe, [origins[key].change(value) for key, value in settings.items()])


def best_recipe(search: OpenSearch, rows: Sequence[TrialRow], best: TrialRow, threads: int) -> str:
    """Write the recipe of the best trial, with its origin as comments."""
    values, first = recipe_of(search, best.settings), rows[0]
    as_it_is = "" if first.value is None else f"; {search.plan.source} as it is: {first.value:.6f}"
    lines = (
        f"From unimixer tune: the best of {count_words(rows)}.",
        f"Trial {best.number}, {search.metric} on validation: {best.value:.6f}{as_it_is}.",
        f"The seed of the search is {search.plan.seed}, the hash of the dataset {search.plan.data}.",
        f"The trial ran with training.threads={threads}; with it this recipe trains to the same bits on a CPU.",
    )
    comments = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return comments + dump_values({**values, "name": f"{search.recipe.name}-tuned"})


class _Engine:
    """The trials of one call."""

    def __init__(self, search: OpenSearch, total: int, machine: Machine, *, quiet: bool) -> None:
        from optuna.trial import Trial

        self.search, self.total, self.machine, self.quiet = search, total, machine, quiet
        self.study = open_study(search.folder, lower_is_better=search.lower_is_better)
        trials = self.study.get_trials(deepcopy=False)
        self.begun = [Trial(self.study, trial._trial_id) for trial in trials if trial.state.name == "RUNNING"]
        self._last = time.monotonic()

    def next(self) -> Trial | None:
        """Return a trial that was interrupted, or a new one while there are too few."""
        if self.begun:
            return self.begun.pop(0)
        trials = self.study.get_trials(deepcopy=False)
        if sum(trial.state.name != "WAITING" for trial in trials) >= self.total:
            return None
        if not trials:
            self.study.enqueue_trial({d.key: d.stored(value) for d, value in self._own_values()})
        return self.study.ask()

    def _own_values(self) -> list[tuple[Any, Any]]:
        """Return the keys whose values in the recipe as it is lie in the space."""
        pairs = [(dimension, own_value(self.search.recipe, dimension.key)) for dimension in self.search.space]
        return [(dimension, value) for dimension, value in pairs if dimension.holds(value)]

    def _settings(self, trial: Trial) -> dict[str, Any]:
        """Draw the settings of a trial, or find those that it has."""
        if trial.number == 0:  # the recipe as it is; the sampler learns from the values that lie in the space
            for dimension, _ in self._own_values():
                dimension.suggest(trial)
            return {}
        chosen: dict[str, Any] = {}
        for dimension in self.search.space:
            if has_effect(dimension.key, chosen, self.search.recipe):
                self.study.sampler = sampler(self.search.plan.seed, trial.number, dimension.key)
                chosen[dimension.key] = dimension.suggest(trial)
        return chosen

    def message(self, task: Trial) -> dict[str, Any]:
        """Return the message of a trial to its worker."""
        settings = self._settings(task)
        task.set_user_attr("settings", settings)
        values = override(recipe_of(self.search, settings), ["training.trackers=[]"])
        return {
            "folder": str(self.search.folder.resolve()),
            "trial": task._trial_id,
            "number": task.number,
            "recipe": {
                **values,
                "dataset": self.search.recipe.dataset,
                "training": {**values["training"], "threads": self.machine.threads},
            },
        }

    def take(self, reply: Reply[Trial]) -> None:
        """Record the end of a trial."""
        from optuna.trial import TrialState

        trial, error = reply.task, failure(reply)
        if error is not None:
            trial.set_user_attr("error", error)
            self.study.tell(trial, state=TrialState.FAIL)
            remove_weights(run_folder(self.search.folder, trial.number))
        elif reply.value["value"] is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, reply.value["value"])
        self._say(self._line(trial.number))

    def tick(self, running: Sequence[Trial]) -> None:
        """Say which trials are under way after a while of silence."""
        if time.monotonic() - self._last >= SILENCE:
            steps = [f"trial {t.number} step {position(self._run(t))[0]:,}" for t in running]
            self._say(f"under way: {'; '.join(steps)}")

    def stopped(self) -> str:
        """Return the sentence of a stopped search."""
        how = f"unimixer tune {shlex.quote(str(self.search.folder))} --trials {self.total}{self.machine.options()}"
        return f"stopped with {self._done()} of {self.total} trials done; continue with: {how}"

    def _run(self, trial: Trial) -> Path:
        return run_folder(self.search.folder, trial.number)

    def _done(self) -> int:
        return sum(row.state != RUNNING for row in read_trials(self.search.folder))

    def _line(self, number: int) -> str:
        rows = read_trials(self.search.folder)
        row, best = rows[number], best_trial(self.search, rows)
        settings = ", ".join(f"{key}={value}" for key, value in row.settings.items()) or "the recipe as it is"
        value = f" {row.value:.4f}" if row.value is not None else ""
        known = "" if best is None or row.error else f" (best {best.value:.4f}, trial {best.number})"
        return f"trial {number} {row.state}{value}{known}: {row.error or settings}"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        if not self.quiet:
            say(f"[{self._done()}/{self.total}] {text}")
