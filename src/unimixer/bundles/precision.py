"""Reduce the weights of an ONNX graph: half precision in storage, or eight bits by dynamic quantization."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.bundles.program import quiet

PRECISIONS = ("float32", "float16", "int8")
SMALLEST = 64
"""Smallest number of elements of a weight that is worth reducing."""


def reduce(path: Path, precision: str, *, external: bool) -> None:
    """Rewrite a float32 graph in place."""
    if precision == "float16":
        _to_float16(path, external=external)
    elif precision == "int8":
        _to_int8(path, external=external)


def _to_float16(path: Path, *, external: bool) -> None:
    """Keep weights as float16 and compute in float32.

    Rows of a table are widened after their lookup, so a table takes half the memory too; other weights are widened
    when a session loads them.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    nodes: list[Any] = []
    widened: dict[str, str] = {}
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype != np.float32 or array.size < SMALLEST or np.abs(array).max() > np.finfo(np.float16).max:
            continue
        initializer.CopyFrom(numpy_helper.from_array(array.astype(np.float16), initializer.name))
        widened[initializer.name] = f"{initializer.name}.float32"
    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in widened:
            narrow = f"{node.output[0]}.float16"
            cast = onnx.helper.make_node("Cast", [narrow], [node.output[0]], to=onnx.TensorProto.FLOAT)
            node.output[0] = narrow
            nodes += [node, cast]
            continue
        for index, name in enumerate(node.input):
            if name in widened:
                node.input[index] = widened[name]
                used.add(name)
        nodes.append(node)
    casts = [
        onnx.helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT)
        for name, wide in widened.items()
        if name in used
    ]
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*casts, *nodes)]
    del model.graph.node[:]
    model.graph.node.extend(fresh)
    del model.graph.value_info[:]  # its types are out of date
    _replace(path, lambda target: _save(model, target, external))


def _to_int8(path: Path, *, external: bool) -> None:
    """Dataset weights of matrix products and tables in eight bits; inputs of a product are quantized at every call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(target: Path) -> None:
        with quiet():
            quantize_dynamic(
                str(path),
                str(target),
                weight_type=QuantType.QInt8,
                per_channel=False,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                use_external_data_format=external,
                extra_options={"MatMulConstBOnly": True},
            )

    _replace(path, quantize)


def _save(model: Any, target: Path, external: bool) -> None:
    import onnx

    location = f"{target.name}.data" if external else None
    onnx.save(model, str(target), save_as_external_data=external, location=location)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a new graph beside the old one and replace it, with the files of its weights."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        target = Path(name) / path.name
        write(target)
        for old in path.parent.glob(f"{path.name}*"):
            old.unlink()
        for file in Path(name).iterdir():
            shutil.move(file, path.parent / file.name)
