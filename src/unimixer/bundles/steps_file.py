"""Keep the steps of a ranker in a file of its bundle, beside the ONNX graph that holds its embedding tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unimixer.bundles.file_parts import open_bytes, parts_of
from unimixer.bundles.graph import Input, RequestRanker
from unimixer.bundles.kernel_runner import KernelRunner
from unimixer.bundles.steps import Steps, steps_of
from unimixer.errors import UnimixerError
from unimixer.ops.native import scoring
from unimixer.ops.native.scoring import Floats, Step

Limit = tuple[NDArray[np.int32], int | None]
"""Rows of the table of every column of a tensor of ids, and its most rows."""
STEPS = "steps.safetensors"
FORMAT = 1
"""Number of this form of steps; onnxruntime scores a bundle with another one."""


def write_steps(graph: RequestRanker, onnx: Path, path: Path) -> bool:
    """Write a ranker as steps; returns False, and writes nothing, if it has no such form."""
    steps = steps_of(graph)
    if steps is None:
        return False
    for width in steps.tables:
        weight, table = graph.ranker.embedding.tables.of_width(width).weight, _table(onnx, width)
        if table is None or not np.array_equal(table.view(np.int32), weight.detach().numpy().view(np.int32)):
            return False
    tensors: dict[str, NDArray[np.generic]] = {
        "user": np.array([astuple(step) for step in steps.user], dtype=np.int64),
        "candidates": np.array([astuple(step) for step in steps.candidates], dtype=np.int64),
        "weights": steps.weights,
        "constants": steps.constants,
        "orders": steps.orders,
    }
    save_file(tensors, path, metadata={"steps": json.dumps({"format": FORMAT, "tables": steps.tables})})
    return True


def open_kernels(
    path: Path, onnx: Path, inputs: Sequence[Input], limits: Mapping[str, Limit], threads: int | None
) -> KernelRunner | None:
    """Open the steps of a file; None if this machine builds no kernels, or the steps are of another version.

    Raises:
        UnimixerError: if the file is damaged, or its steps do not fit the graph.
    """
    if scoring.library() is None:
        return None
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads(file.metadata()["steps"])
            if facts["format"] != FORMAT:
                return None
            user, candidates = (
                tuple(Step(*row) for row in file.get_tensor(side).tolist()) for side in ("user", "candidates")
            )
            weights, constants, orders = (file.get_tensor(name) for name in ("weights", "constants", "orders"))
        widths = tuple(map(int, facts["tables"]))
        tables = [table for width in widths if (table := _table(onnx, width)) is not None]
        rows = {name: of_columns.tolist() for name, (of_columns, _) in limits.items()}
        return KernelRunner(Steps(user, candidates, weights, constants, orders, widths), tables, inputs, rows, threads)
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise UnimixerError(f"{path}: not the steps of this bundle ({error}); export the run again") from None


def _table(onnx: Path, width: int) -> Floats | None:
    """Read the embedding tables of a width from the file of a graph, or from the file of weights beside it."""
    for file in (onnx, onnx.with_name(f"{onnx.name}.data")):
        for name, part in parts_of(file).items() if file.exists() else ():
            if name.endswith(f"tables.packed.{width}.weight") and part.width == 4 * width:
                return np.array(open_bytes(file)[part.start : part.stop]).view(np.float32).reshape(-1, width)
    return None
