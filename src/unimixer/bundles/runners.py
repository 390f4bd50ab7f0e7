"""Run a graph: tensors to logits and probabilities, from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimixer.bundles.graph import OUTPUTS, Input
from unimixer.bundles.onnx_file import open_session
from unimixer.bundles.pt2_file import open_aoti, open_pt2
from unimixer.errors import UnimixerError

FORMATS = ("onnx", "pt2", "aoti")
FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "aoti": "model.aoti.pt2"}
Scores = NDArray[np.float32]


class Runner(Protocol):
    """Run a loaded graph."""

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Scores, Scores]:
        """Compute logits and probabilities ``(N, tasks)`` of the tensors of a signature."""


class OnnxRunner:
    """Run a graph with onnxruntime on the CPU; any number of threads may share a session."""

    def __init__(self, path: Path, inputs: Sequence[Input], threads: int | None) -> None:
        self.session = open_session(path, threads)
        used = {one.name for one in self.session.get_inputs()}
        known, outputs = {one.name for one in inputs}, {one.name for one in self.session.get_outputs()}
        if not used <= known or not set(OUTPUTS) <= outputs:
            raise UnimixerError(
                f"{path}: takes {', '.join(sorted(used))} and gives {', '.join(sorted(outputs))}, which is not the "
                "signature of its bundle; export the run again"
            )
        self.inputs = [(index, one.name) for index, one in enumerate(inputs) if one.name in used]

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Scores, Scores]:
        """Run the session."""
        logits, probabilities = self.session.run(OUTPUTS, {name: tensors[at].numpy() for at, name in self.inputs})
        return logits, probabilities


class TorchRunner:
    """Run a graph with torch; ``threads`` is then a setting of the whole process."""

    def __init__(self, module: Any, threads: int | None) -> None:
        self.module = module
        if threads is not None:
            torch.set_num_threads(threads)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Scores, Scores]:
        """Run the module without recording gradients."""
        with torch.no_grad():
            logits, probabilities = self.module(*tensors)
        return logits.numpy(), probabilities.numpy()


def open_runner(form: str, path: Path, inputs: Sequence[Input], threads: int | None) -> Runner:
    """Load a graph file."""
    if form == "onnx":
        return OnnxRunner(path, inputs, threads)
    return TorchRunner(open_pt2(path) if form == "pt2" else open_aoti(path), threads)
