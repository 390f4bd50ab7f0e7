"""A recipe that trains in a second, and what tests read of its run."""

from __future__ import annotations

import random
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from unimixer.settings import override, parse
from unimixer.training.config import Recipe
from unimixer.training.run import RunFolder

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "backbone": "unimixer-lite",
        "width": 8,
        "num_tokens": 2,
        "embedding_dim": 4,
        "tower_hidden_dims": [8],
        "options": {"num_blocks": 1, "matrices": "blocks", "rank": 4, "block_size": 2},
    },
    "training": {
        "batch_size": 128,
        "eval_interval": 4,
        "log_every": 1,
        "num_workers": 0,
        "threads": 1,
        "device": "cpu",
    },
}


def tiny_values(dataset: Path | str, *overrides: str) -> dict[str, Any]:
    """Values of the recipe with changes such as ``training.seed=1``; of two for one key the later one counts."""
    last = {change.partition("=")[0]: change for change in overrides}
    return dict(override({**RECIPE, "dataset": str(dataset)}, list(last.values())))


def tiny_recipe(dataset: Path | str, *overrides: str) -> Recipe:
    """The recipe with changes."""
    return parse(Recipe, tiny_values(dataset, *overrides), where="tiny.yaml")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder with safetensors files, by file and name."""
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_equal_tensors(first: Path, second: Path) -> None:
    """Assert that two folders hold the same tensors, bit for bit."""
    a, b = tensors_of(first), tensors_of(second)
    assert a
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def facts_of(run: RunFolder) -> dict[str, Any]:
    """The result without times."""
    return {k: v for k, v in (run.result or {}).items() if k not in ("seconds", "samples_per_second")}


def logged(run: RunFolder) -> list[tuple[Any, ...]]:
    """What the metrics file says in which order: kind, step, task, loss, AUC of evaluations."""
    return [
        (line["kind"], line["step"], line.get("task"), line.get("loss"), line["auc"] if "task" in line else None)
        for line in run.history()
    ]


def caller_states() -> dict[str, Any]:
    """What a call of the library must not change."""
    return {
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }
