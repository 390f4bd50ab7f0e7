"""What several processes wrote, in the hands of one: weights put together, checkpoints continued without torchrun."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.io import atomic_file
from unimixer.training.checkpoint import latest_checkpoint, load_state, load_tensors, save_tensors
from unimixer.training.distributed.storage import DESCRIPTION, read_packed
from unimixer.training.run import RunFolder

BEST = "best-sharded"
"""Folder, inside a run, of the best weights so far, until they are put together."""


def consolidate(source: Path, target: Path) -> None:
    """Write weights of several processes as the file of one machine; needs memory for all tables."""
    tensors = load_tensors(source / "model.safetensors")
    with atomic_file(target) as path:
        save_tensors(path, {**tensors, **read_packed(source)[0]})


def consolidate_run(run: RunFolder) -> Path:
    """Put the best weights of a run that did not finish together, or those of its newest checkpoint.

    Returns:
        The folder that they were taken from; ``best/model.safetensors`` is then what ``evaluate`` and ``predict`` read.

    Raises:
        UnimixerError: if no process has written weights yet, or the run is one of a single process.
    """
    source = run.folder / BEST
    if not source.exists():
        checkpoint = latest_checkpoint(run.folder / "checkpoints")
        if checkpoint is None or not (checkpoint / DESCRIPTION).exists():
            done = "its weights are together already" if run.best_weights.exists() else "it has no weights yet"
            raise UnimixerError(f"{run.folder}: nothing to put together: {done}")
        if run.best_weights.exists():
            raise UnimixerError(f"{run.folder}: nothing to put together: its weights are together already")
        source = checkpoint
    consolidate(source, run.best_weights)
    return source


def take_over(run: RunFolder) -> None:
    """Let one process go on with a run of several: its best weights become a file of their own."""
    source = run.folder / BEST
    if source.exists():
        consolidate(source, run.best_weights)
        shutil.rmtree(source)


def checkpoint_of_many(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer tensors of a checkpoint of several processes, as one process names them."""
    weights, states = read_packed(checkpoint, optimizer=True)
    step = load_state(checkpoint / "state.json")["step"]
    tensors = load_tensors(checkpoint / "optimizer.safetensors")
    for number, state in enumerate(states.values()):
        tensors |= {f"sparse.{number}.{name}": tensor for name, tensor in state.items()}
        if "exp_avg" in state:
            tensors[f"sparse.{number}.step"] = torch.tensor(step)
    return {**load_tensors(checkpoint / "model.safetensors"), **weights}, tensors
