"""Consolidate sharded checkpoints, so that a single process can load or resume them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.io import atomic_file
from unimixer.ranker import PACKED
from unimixer.training.averaging import with_means
from unimixer.training.model import hollow_ranker
from unimixer.training.process_group import quietly
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint, load_state, load_tensors, save_tensors

TABLES_FOLDER, TABLES_DESCRIPTION = "tables", "tables.json"
TABLE_STATES = {"adam": ("exp_avg", "exp_avg_sq"), "rowwise_adagrad": ("sum",), "sgd": ()}
"""The states that the optimizer of a table keeps, by its rule."""


def consolidate_run(run: RunFolder) -> Path:
    """Consolidate the best weights of an unfinished run, or those of its newest checkpoint.

    Returns:
        The folder that they were read from; ``evaluate`` and ``predict`` then read ``best/model.safetensors``.

    Raises:
        UnimixerError: if no process has written weights yet, or a single process trains the run.
    """
    source = run.sharded_best
    if not source.exists():
        checkpoint = latest_checkpoint(run.checkpoints)
        if checkpoint is None or not is_sharded_checkpoint(checkpoint):
            done = "its weights are in one file already" if run.best_weights.exists() else "it has no weights yet"
            raise UnimixerError(f"{run.folder}: nothing to consolidate: {done}")
        if run.best_weights.exists():
            raise UnimixerError(
                f"{run.folder}: nothing to consolidate: its weights are in one file already; use the run as it is"
            )
        source = checkpoint
    consolidate_checkpoint(source, run)
    return source


def consolidate_best(run: RunFolder) -> None:
    """Replace the sharded best weights of a run, where it has any, by one file."""
    if run.sharded_best.exists():
        consolidate_checkpoint(run.sharded_best, run)
        shutil.rmtree(run.sharded_best)


def consolidate_checkpoint(source: Path, run: RunFolder) -> None:
    """Write the weights of a sharded checkpoint as the best weights of a run; this needs memory for all tables.

    A checkpoint of a run that averages its weights gives the mean, because the best weights are means.
    """
    tensors = load_tensors(source / "model.safetensors")
    states = source / "optimizer.safetensors"
    if run.recipe.averaging.kind != "none" and states.exists():
        tensors = with_means(tensors, load_tensors(states), hollow_ranker(run.recipe, run.transform.spec))
    with atomic_file(run.best_weights) as path:
        save_tensors(path, {**tensors, **read_packed_tables(source)[0]})


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """Tell whether several processes wrote a checkpoint."""
    return (checkpoint / TABLES_DESCRIPTION).exists()


def read_sharded_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read weights and optimizer tensors of a sharded checkpoint under the names that a single process uses."""
    weights, states = read_packed_tables(checkpoint, optimizer=True)
    state = load_state(checkpoint / "state.json")
    step = state["step"] + state.get("earlier_steps", 0)
    tensors = load_tensors(checkpoint / "optimizer.safetensors")
    for number, moments in enumerate(states.values()):
        tensors |= {f"sparse.{number}.{name}": tensor for name, tensor in moments.items()}
        if "exp_avg" in moments:
            tensors[f"sparse.{number}.step"] = torch.tensor(step)
    return {**load_tensors(checkpoint / "model.safetensors"), **weights}, tensors


def read_packed_tables(
    folder: Path, *, optimizer: bool = False
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Read sharded tables without other processes, packed into one matrix per width.

    Returns:
        Weights by their names in the state dict, and the optimizer's states, ``{name of weight: {name: tensor}}``.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    description = read_tables_description(folder)
    rows, width = description["rows"], description["width"]
    names = TABLE_STATES[description["rule"]] if optimizer else ()
    weights: dict[str, Tensor] = {}
    states: dict[str, dict[str, Tensor]] = {}
    for w in sorted(set(width.values())):
        total = sum(count for name, count in rows.items() if width[name] == w)
        key = PACKED.format(width=w)
        weights[key] = torch.zeros(total, w)
        states[key] = {name: torch.zeros(total) if name == "sum" else torch.zeros(total, w) for name in names}
    target: dict[str, Any] = {}
    for name, start in first_packed_rows(rows, width).items():
        key, part = PACKED.format(width=width[name]), slice(start, start + rows[name])
        target[f"{name}.weight"] = weights[key][part]
        target |= {f"{name}.{state}": tensor[part] for state, tensor in states[key].items()}
    with quietly():
        load(target, storage_reader=HuggingFaceStorageReader(str(folder / TABLES_FOLDER)), no_dist=True)
    return weights, states


def read_tables_description(folder: Path) -> dict[str, Any]:
    """Read rows, width and rule of the tables in a sharded checkpoint."""
    path = folder / TABLES_DESCRIPTION
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnimixerError(
            f"{path}: no such file: one process wrote this checkpoint, so it needs no consolidation"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnimixerError(
            f"{path}: damaged ({error}); continue the run from an earlier checkpoint, or train it again"
        ) from None
    return values


def first_packed_rows(num_embeddings: Mapping[str, int], width: Mapping[str, int]) -> dict[str, int]:
    """Return the first row of every table in the packed matrix of its width."""
    first, totals = {}, dict.fromkeys(width.values(), 0)
    for name, rows in num_embeddings.items():
        first[name] = totals[width[name]]
        totals[width[name]] += rows
    return first
