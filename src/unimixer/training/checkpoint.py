"""Checkpoints: tensors and JSON, never pickle; a folder that exists is complete."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.io import atomic_file, atomic_folder
from unimixer.training.consolidate import is_sharded_checkpoint, read_sharded_checkpoint
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import (
    check_weights,
    load_state,
    load_tensors,
    load_weights,
    optimizer_tensors,
    prune,
    restore_optimizer,
    save_tensors,
    select_tensors,
)

START = "step-000000000"
"""The first checkpoint of a run that continues another one."""


@dataclass
class TrainState:
    """The position of the training loop; with the checkpoint's tensors it decides everything that follows."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch taken."""
    best: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    """Training time without evaluations and checkpoints."""
    samples: int = 0
    earlier_steps: int = 0
    """Steps of the runs that this one continues; Adam counts them too."""


class Checkpointer:
    """Writes and reads checkpoints and best weights of a run that a single process trains.

    Args:
        run: the run.
        model: its model.
        optimizers: its optimizers by name.
    """

    def __init__(self, run: RunFolder, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self.run, self.model, self.optimizers = run, model, optimizers

    def save_checkpoint(self, state: Mapping[str, Any], *, keep: int) -> None:
        """Write ``step-N`` atomically, then remove all but the newest ``keep`` checkpoints."""
        tensors = {
            f"{name}.{key}": tensor
            for name, optimizer in self.optimizers.items()
            for key, tensor in optimizer_tensors(optimizer).items()
        }
        write_checkpoint(self.run.checkpoints / f"step-{state['step']:09d}", self.model.state_dict(), tensors, state)
        prune(self.run.checkpoints, keep)

    def load_checkpoint(self, checkpoint: Path) -> dict[str, Any]:
        """Restore weights, optimizers and random states; return the loop's state.

        A single process also reads the checkpoint of several, which has no random states.

        Raises:
            UnimixerError: if a file is missing or damaged, or belongs to another model.
        """
        state = load_state(checkpoint / "state.json")
        if is_sharded_checkpoint(checkpoint):
            weights, tensors = read_sharded_checkpoint(checkpoint)
            check_weights(checkpoint, weights, self.model.state_dict())
            self.model.load_state_dict(weights)
        else:
            load_weights(checkpoint / "model.safetensors", self.model)
            tensors = load_tensors(checkpoint / "optimizer.safetensors")
            _set_random(load_tensors(checkpoint / "random.safetensors"))
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, select_tensors(tensors, name))
        return state

    def save_best(self) -> None:
        """Keep the present weights as the best."""
        with atomic_file(self.run.best_weights) as path:
            save_tensors(path, self.model.state_dict())

    def load_best(self) -> None:
        """Load the weights that validated best."""
        load_weights(self.run.best_weights, self.model)

    def finish(self) -> None:
        """Leave the best weights as one file; a single process writes them so from the start."""


def write_checkpoint(
    folder: Path, weights: Mapping[str, Tensor], optimizers: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint of a single process atomically, with the random states of this moment."""
    with atomic_folder(folder, overwrite=True) as temporary:
        save_tensors(temporary / "model.safetensors", weights)
        save_tensors(temporary / "optimizer.safetensors", optimizers)
        save_tensors(temporary / "random.safetensors", _random_tensors())
        write_state(temporary, state)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of the training loop into a checkpoint."""
    (folder / "state.json").write_text(json.dumps(dict(state), indent=1) + "\n", encoding="utf-8")


def remove_leftovers(run: Path) -> None:
    """Remove the unfinished files that a killed process left in a run folder."""
    for path in list(run.rglob(".*.tmp")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _random_tensors() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state(), "python": torch.tensor(random.getstate()[1], dtype=torch.int64)}
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate((3, tuple(states["python"].tolist()), None))
    devices = len(states) - 2
    if devices and torch.cuda.device_count() == devices:
        torch.cuda.set_rng_state_all([states[f"cuda.{i}"] for i in range(devices)])
