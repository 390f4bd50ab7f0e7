"""A bundle that NVIDIA Triton serves as it is: put the folder into a model repository under any name."""

from __future__ import annotations

from collections.abc import Sequence

from unimixer.export.graph import OUTPUTS, Input

GRAPH = "1/model.onnx"
CONFIG = "config.pbtxt"
_TYPES = {"int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def config(inputs: Sequence[Input], tasks: int) -> str:
    """The text of ``config.pbtxt``: tensors by name, no batching (the candidates of one request are the batch).

    The model has the name of its folder. Names and types are those of the open inference protocol, version 2, which
    Triton and KServe speak.
    """
    tensors = [_tensor("input", found.name, _TYPES[found.dtype], _dims(found)) for found in inputs]
    tensors += [_tensor("output", name, "TYPE_FP32", [-1, tasks]) for name in OUTPUTS]
    return "\n".join(['backend: "onnxruntime"', "max_batch_size: 0", *tensors]) + "\n"


def _dims(found: Input) -> list[int]:
    first = 1 if found.rows == 1 else -1
    return [first] if found.width is None else [first, found.width]


def _tensor(kind: str, name: str, dtype: str, dims: list[int]) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{kind} [\n  {{\n    name: "{quoted}"\n    data_type: {dtype}\n    dims: {dims}\n  }}\n]'
