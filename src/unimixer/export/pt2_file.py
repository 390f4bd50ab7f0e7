"""The graph as an archive of ``torch.export``, and compiled ahead of time by AOTInductor."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from unimixer.errors import UnimixerError
from unimixer.export.graph import RequestRanker
from unimixer.export.program import cannot_export, quiet
from unimixer.training.model import compiler


def write_pt2(program: ExportedProgram, path: Path) -> None:
    """Save a trace: graph as JSON, weights as plain bytes, no example inputs."""
    given, program.example_inputs = program.example_inputs, None  # an archive would keep them as a pickle
    try:
        with quiet():
            torch.export.save(program, path)
    finally:
        program.example_inputs = given
    check_no_pickle(path)


def write_aoti(graph: RequestRanker, program: ExportedProgram, path: Path) -> None:
    """Compile a trace to a shared library for this machine's kind of processor.

    Raises:
        UnimixerError: if there is no C++ compiler, or it refuses the graph.
    """
    if compiler() is None:
        raise UnimixerError("--format aoti needs a C++ compiler and none was found; install g++ or use --format onnx")
    try:
        with torch.no_grad(), quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise cannot_export(graph, error) from error


def check_no_pickle(path: Path) -> None:
    """Raise if loading an archive would unpickle anything.

    Weights and constants are raw bytes unless their entry says ``use_pickle``; example inputs are always a pickle, so
    there must be none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                inside = entry.filename.split("/", 1)[-1]
                if inside.startswith("data/sample_inputs/") and entry.file_size:
                    raise _pickled(path, entry.filename)
                if inside.endswith("_config.json") and "use_pickle" in (text := archive.read(entry).decode()):
                    for name, payload in json.loads(text)["config"].items():
                        if payload["use_pickle"]:
                            raise _pickled(path, name)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        if isinstance(error, UnimixerError):
            raise
        raise UnimixerError(f"{path}: not an archive of torch.export ({error}); export the run again") from None


def _pickled(path: Path, name: str) -> UnimixerError:
    return UnimixerError(f"{path}: {name!r} is a pickle, and nothing is unpickled here; export the run again")


def open_pt2(path: Path) -> Any:
    """A saved trace as a module; its inputs are checked by whoever calls it."""
    check_no_pickle(path)
    with quiet():
        return torch.export.load(path).module(check_guards=False)


def open_aoti(path: Path) -> Any:
    """A compiled graph; this runs native code of the package."""
    with quiet():
        return torch._inductor.aoti_load_package(str(path))
