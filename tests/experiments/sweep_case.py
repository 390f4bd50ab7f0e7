"""A sweep that trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimixer.experiments.plan import Sweep
from unimixer.settings import parse

LITE = "unimixer-lite:num_blocks=1:matrices=blocks:rank=4:block_size=2:label=lite"
RECIPE: dict[str, Any] = {
    "model.num_tokens": 4,
    "model.embedding_dim": 4,
    "model.tower_hidden_dims": [8],
    "training.batch_size": 128,
    "training.max_steps": 4,
    "training.eval_interval": 4,
    "training.num_workers": 0,
    "training.device": "cpu",
}
SETTINGS = [part for key, value in RECIPE.items() for part in ("--set", f"{key}={value}")]
"""The same on the command line."""


def small_sweep(dataset: Path | str, **changes: Any) -> Sweep:
    """The sweep with changes; ``recipe`` adds keys, everything else replaces."""
    recipe = {**RECIPE, **changes.pop("recipe", {})}
    values = {
        "data": [str(dataset)],
        "models": ["rankmixer", LITE],
        "params": [6_000, 24_000],
        "seeds": 2,
        "dense_lr": [1e-3, 2e-3, 4e-3],
        "tasks": {"is_click": 1.0},
        "recipe": recipe,
    }
    return parse(Sweep, {**values, **changes}, where="sweep")
