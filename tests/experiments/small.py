"""A study that trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimixer.experiments import Study
from unimixer.experiments.cases import Case
from unimixer.experiments.experiment import build_series
from unimixer.settings import parse

LITE = "unimixer-lite:num_blocks=1:matrices=blocks:rank=4:block_size=2:label=lite"

RECIPE: dict[str, Any] = {
    "model.num_tokens": 4,
    "model.embedding_dim": 4,
    "model.tower_hidden_dims": [8],
    "training.batch_size": 128,
    "training.eval_interval": 4,
    "training.log_every": 1,
    "training.num_workers": 0,
    "training.device": "cpu",
}


def small_values(dataset: Path | str, **changes: Any) -> dict[str, Any]:
    """Values of the study; ``recipe`` adds keys, everything else replaces."""
    recipe = {**RECIPE, **changes.pop("recipe", {})}
    values = {
        "data": [str(dataset)],
        "models": ["rankmixer", LITE],
        "params": ["12K"],
        "seeds": 2,
        "dense_lr": [1e-3],
        "tasks": {"is_click": 1.0},
        "recipe": recipe,
    }
    return {**values, **changes}


def small_study(dataset: Path | str, **changes: Any) -> Study:
    """The study with changes."""
    return parse(Study, small_values(dataset, **changes), where="study")


def small_cases(dataset: Path | str, **changes: Any) -> list[Case]:
    """Its cases."""
    series, _ = build_series(small_study(dataset, **changes).opened(Path("no folder")))
    return [case for one in series for case in one.cases]
