"""Searches for settings that take a moment, and journals with trials that were never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from tiny import tiny_values

from unimixer.experiments.tuning import OpenSearch, Search, open_search
from unimixer.experiments.tuning.plan import write_search
from unimixer.experiments.tuning.storage import open_study

SPACE: dict[str, dict[str, Any]] = {
    "optimizer.dense_lr": {"log": [1e-4, 1e-1]},
    "optimizer.dense": {"choice": ["adam", "adamw"]},
    "optimizer.weight_decay": {"log": [1e-3, 1e-1]},
}


def small_search(
    dataset: Path, folder: Path, *overrides: str, space: Mapping[str, Any] = SPACE, seed: int = 0
) -> OpenSearch:
    """A search on the small world; its runs have two steps and an evaluation after each."""
    short = ("training.max_steps=2", "training.eval_interval=1")
    recipe = tiny_values(dataset, *short, *overrides)
    return open_search(Search(source="tiny.yaml", recipe=recipe, space=dict(space), seed=seed), folder)


def write_trials(search: OpenSearch, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Write trials into the journal of a search that is begun by it."""
    write_search(search)
    study = open_study(search.folder, lower_is_better=search.lower_is_better)
    study.add_trials(trials)


def finished(
    value: float | None, settings: Mapping[str, Any] | None = None, **changes: Any
) -> optuna.trial.FrozenTrial:
    """A finished trial with some evaluations of its value."""
    settings = dict(settings or {})
    distributions = {key: optuna.distributions.FloatDistribution(0.0, 1.0) for key in settings}
    values = {
        "value": value,
        "params": settings,
        "distributions": distributions,
        "user_attrs": {"settings": settings},
        "intermediate_values": {} if value is None else {1: value, 2: value},
        **changes,
    }
    return optuna.create_trial(**values)
