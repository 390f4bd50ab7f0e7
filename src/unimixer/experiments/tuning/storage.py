"""The trials of a search on disk: a journal of Optuna, read and written by several processes."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from filelock import FileLock

from unimixer.errors import MissingExtraError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

JOURNAL = "trials.journal"
FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "running"
LEAST_FINISHED = 5
"""Finished trials before which none is pruned."""
_STATES = {"COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED, "RUNNING": RUNNING}
_NAME = "search"


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    state: str
    value: float | None
    """The metric of the best weights on validation, of a finished trial."""
    settings: dict[str, Any]
    """Changes of the recipe, by key; none in trial 0, the recipe as it is."""
    evaluations: dict[int, float]
    """The metric at every evaluation, by its number."""
    error: str = ""


class _Lock:
    """A lock that ends with its process, however that ends; those of Optuna outlive a killed one by half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def need_optuna() -> None:
    """Raise if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError("a search for settings", "tune")


def open_study(folder: Path, *, lower_is_better: bool | None = None) -> Study:
    """Open the study of a search.

    Args:
        folder: of the search.
        lower_is_better: direction of a study that may have to be made (default: it exists).
    """
    need_optuna()
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    lock: Any = _Lock(path)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    # by the median: a run has four evaluations unless its recipe says otherwise, too few for the rungs of halving
    pruner = optuna.pruners.MedianPruner(n_startup_trials=LEAST_FINISHED)
    if lower_is_better is None:
        return optuna.load_study(study_name=_NAME, storage=storage, pruner=pruner)
    direction = "minimize" if lower_is_better else "maximize"
    return optuna.create_study(
        study_name=_NAME, storage=storage, pruner=pruner, direction=direction, load_if_exists=True
    )


def sampler(seed: int, number: int, key: str) -> BaseSampler:
    """Make the sampler of one value: a draw depends on the trials before it, whichever process they were drawn in."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # trials that run beside count as bad ones, so that processes do not try the same place
        return optuna.samplers.TPESampler(seed=crc32(f"{seed} {number} {key}".encode()), constant_liar=True)


def mend_journal(folder: Path) -> None:
    """Remove a last line that a full disk or a lost machine left incomplete; no other process may have it open."""
    path = folder / JOURNAL
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def read_trials(folder: Path) -> list[TrialRow]:
    """Read all trials that were begun, in their order."""
    if not (folder / JOURNAL).exists():
        return []
    trials = open_study(folder).get_trials(deepcopy=False)
    return [
        TrialRow(
            number=trial.number,
            state=_STATES[trial.state.name],
            value=trial.value if trial.state.name == "COMPLETE" else None,
            settings=dict(trial.user_attrs.get("settings", {})),
            evaluations=dict(sorted(trial.intermediate_values.items())),
            error=str(trial.user_attrs.get("error", "")),
        )
        for trial in trials
        if trial.state.name in _STATES
    ]


def importances(folder: Path, least: int = 10) -> dict[str, float]:
    """Compute the share of the variance of the metric that every key explains in a forest over the finished trials.

    fANOVA (Hutter, Hoos and Leyton-Brown, 2014). Keys that all finished trials have enter it.

    Args:
        folder: of the search.
        least: fewer finished trials give no numbers.
    """
    from optuna import create_study
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = open_study(folder)
    finished = [t for t in study.get_trials() if t.state.name == "COMPLETE" and t.number]
    keys = [k for k in (finished[0].params if finished else ()) if len({str(t.params.get(k)) for t in finished}) > 1]
    keys = [key for key in keys if all(key in trial.params for trial in finished)]
    if len(finished) < least or not keys or len({trial.value for trial in finished}) == 1:
        return {}
    alone = create_study(direction=study.direction)
    alone.add_trials(finished)
    return dict(get_param_importances(alone, evaluator=FanovaImportanceEvaluator(seed=0), params=keys))
