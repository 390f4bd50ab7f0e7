"""The graph as ONNX: written by torch's exporter, run by onnxruntime."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from unimixer.errors import MissingExtraError, UnimixerError, first_line
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


def external_files(path: Path) -> set[str]:
    """Names of the files that a graph reads weights from, as they stand in it; nothing is read from them.

    Raises:
        UnimixerError: if the file is no graph.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(b"location") < 0:  # the key of every such name; so large graphs need not be read for this
                return set()
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # of whatever protobuf is installed
        raise UnimixerError(f"{path}: not a graph of ONNX ({first_line(error)}); export the run again") from None
    return {
        entry.value
        for part in (model.graph, *model.functions)
        for tensor in _tensors(part)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(part: Any) -> Iterator[Any]:
    """All constant tensors of a graph or a function, and of the graphs inside."""
    yield from getattr(part, "initializer", ())
    for sparse in getattr(part, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in part.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)


def open_session(path: Path, threads: int | None) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UnimixerError: if onnxruntime does not read the graph.
    """
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
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        newer = re.search(r"(Opset|IR version:?) (\d+).*?(?:till opset|max supported IR version:) (\d+)", str(error))
        here = f"onnxruntime {onnxruntime.__version__}"
        if newer is not None:
            kind = "opset" if newer[1] == "Opset" else "IR version"
            raise UnimixerError(
                f"{path}: written in {kind} {newer[2]}, and {here} reads up to {newer[3]}; install a newer "
                "onnxruntime, or export the run again with this one"
            ) from None
        reason = first_line(error).rpartition(" failed:")[2]
        raise UnimixerError(f"{path}: {here} cannot open it ({reason}); export the run again") from None
