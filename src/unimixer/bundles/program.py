"""Trace the graph of a request with ``torch.export``; every file format is written from this one trace."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from unimixer.bundles.graph import CANDIDATES, Input, RequestRanker, example
from unimixer.errors import UnimixerError, explain, first_line

LARGEST = 2**20
"""Rows that an axis of varying length may have."""


_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "root")
"""Loggers of the exporters, which report missing optional packages and skipped steps."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of the exporters about their own internals."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def trace(graph: RequestRanker) -> ExportedProgram:
    """Trace a request of any number of candidates and lists of any length, empty ones included.

    Raises:
        UnimixerError: if a graph cannot hold an operation of the model.
    """
    tensors = example(graph.inputs)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(graph, tensors, dynamic_shapes={"inputs": _axes(graph.inputs)})
    except Exception as error:
        raise cannot_export(graph, error) from error


def cannot_export(
    graph: RequestRanker, error: Exception, way_out: str = "write its forward with tensor operations"
) -> Exception:
    """Explain a model that a tracer or converter refuses in one sentence; a failure of the system stays as it is."""
    if explain(error) is not None:
        return error
    name = type(graph.ranker.backbone).__name__
    return UnimixerError(f"this {name} cannot be exported: {first_line(error)}; {way_out}")


def _axes(inputs: tuple[Input, ...]) -> tuple[dict[int, Any], ...]:
    """List the axes of every tensor that vary; axes of one name have one length."""
    dims: dict[Any, Any] = {CANDIDATES: Dim(CANDIDATES, min=1, max=LARGEST)}
    axes: list[dict[int, Any]] = []
    for one in inputs:
        if one.rows == 1:
            axes.append({})
        elif one.width is None:
            axes.append({0: dims[CANDIDATES] + 1})
        else:
            # the name of a group may be no valid name of a symbol
            axes.append({0: dims.setdefault(one.rows, Dim(f"rows{len(dims)}", min=0, max=LARGEST))})
    return tuple(axes)
