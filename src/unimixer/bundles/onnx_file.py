"""Write the graph as ONNX with torch's exporter, also as a model folder of NVIDIA Triton, and open it."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from unimixer.bundles.graph import OUTPUTS, Input, RequestRanker
from unimixer.bundles.program import cannot_export, quiet
from unimixer.errors import MissingExtraError, UnimixerError, first_line

EXTERNAL_BYTES = 1_500_000_000
"""Weights from this size on go into a file beside the graph: a protobuf message ends at 2 GB."""


def require_onnx() -> None:
    """Raise if a package that writes or runs ONNX is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", "serve") from error
    assert onnx
    assert onnxruntime


def write_onnx(graph: RequestRanker, program: ExportedProgram, path: Path, *, external: bool | None = None) -> None:
    """Write a traced graph.

    Args:
        graph: the traced module.
        program: its trace.
        path: file to write.
        external: weights in ``PATH.data`` beside it (default: if they are larger than ``EXTERNAL_BYTES``).

    Raises:
        UnimixerError: if an operation has no form in ONNX.
    """
    require_onnx()
    if external is None:
        external = weight_bytes(program) > EXTERNAL_BYTES
    names = {"input_names": [one.name for one in graph.inputs], "output_names": list(OUTPUTS)}
    try:
        with torch.no_grad(), quiet():
            written = torch.onnx.export(program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
            assert written is not None
            written.save(str(path), external_data=external)
    except Exception as error:
        exporter = f"torch {version('torch')} with onnxscript {version('onnxscript')}"
        raise cannot_export(graph, error, f"{exporter} writes no ONNX of it: update both, or choose pt2") from error


def weight_bytes(program: ExportedProgram) -> int:
    """Add up the bytes of all weights of a trace as a file has them: one that has several names counts once."""
    tensors = (t for t in (*program.state_dict.values(), *program.constants.values()) if isinstance(t, torch.Tensor))
    sizes = {(t.untyped_storage().data_ptr(), t.storage_offset(), t.shape): t.nbytes for t in tensors}
    return sum(sizes.values())


def external_files(path: Path) -> set[str]:
    """List the files that a graph reads weights from, without reading them.

    Raises:
        UnimixerError: if the file is no graph.
    """
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if text.find(b"location") < 0:  # the key of every such name: without it a large graph need not be parsed
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
    """Iterate over all constant tensors of a graph or a function, and of the graphs inside."""
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
    """Open an onnxruntime session on the CPU.

    Raises:
        UnimixerError: if onnxruntime does not read the graph.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # threads of a pool wait for the next operation in a busy loop; after the last one that loop takes a core from the
    # caller
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


GRAPH = "1/model.onnx"
CONFIG = "config.pbtxt"
_TYPES = {"int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def config(inputs: Sequence[Input], tasks: int) -> str:
    """Write the text of ``config.pbtxt``: tensors by name, no batching (the candidates of one request are the batch).

    Put the folder of the bundle into a model repository under any name, and Triton serves it.

    The model has the name of its folder. Names and types are those of the open inference protocol, version 2, which
    Triton and KServe speak.
    """
    tensors = [_tensor("input", one.name, _TYPES[one.dtype], _dims(one)) for one in inputs]
    tensors += [_tensor("output", name, "TYPE_FP32", [-1, tasks]) for name in OUTPUTS]
    return "\n".join(['backend: "onnxruntime"', "max_batch_size: 0", *tensors]) + "\n"


def _dims(one: Input) -> list[int]:
    first = 1 if one.rows == 1 else -1
    return [first] if one.width is None else [first, one.width]


def _tensor(kind: str, name: str, dtype: str, dims: list[int]) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{kind} [\n  {{\n    name: "{quoted}"\n    data_type: {dtype}\n    dims: {dims}\n  }}\n]'
