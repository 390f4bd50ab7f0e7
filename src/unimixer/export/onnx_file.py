"""The graph as ONNX: written by torch's exporter, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from unimixer.errors import MissingExtraError
from unimixer.export.graph import OUTPUTS, RequestRanker
from unimixer.export.program import cannot_export, quiet

EXTERNAL_BYTES = 1_500_000_000
"""Weights from this size on go into a file beside the graph: a protobuf message ends at 2 GB."""


def require_onnx() -> None:
    """Raise where a package that writes or runs ONNX is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", "serve") from error
    assert onnx
    assert onnxruntime


def write_onnx(graph: RequestRanker, program: ExportedProgram, path: Path, *, external: bool | None = None) -> None:
    """Write the graph.

    Args:
        graph: what was traced.
        program: its trace.
        path: file to write.
        external: weights in ``PATH.data`` beside it (default: where they are larger than ``EXTERNAL_BYTES``).

    Raises:
        UnimixerError: if an operation has no form in ONNX.
    """
    require_onnx()
    if external is None:
        external = weight_bytes(program) > EXTERNAL_BYTES
    names = {"input_names": [found.name for found in graph.inputs], "output_names": list(OUTPUTS)}
    try:
        with torch.no_grad(), quiet():
            found = torch.onnx.export(program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
            assert found is not None
            found.save(str(path), external_data=external)
    except Exception as error:
        raise cannot_export(graph, error) from error


def weight_bytes(program: ExportedProgram) -> int:
    """Size of all weights of a trace."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def open_session(path: Path, threads: int | None) -> Any:
    """An onnxruntime session on the CPU."""
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # threads of a pool wait for each other's next operation in a busy loop; after the last one that takes a core from
    # whoever made the request
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
