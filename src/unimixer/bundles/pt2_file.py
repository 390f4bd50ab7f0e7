"""Write the graph as an archive of ``torch.export``, or compiled ahead of time by AOTInductor, and open it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from unimixer.bundles.graph import RequestRanker
from unimixer.bundles.program import cannot_export, quiet
from unimixer.errors import UnimixerError, first_line
from unimixer.training.model import compiler


def write_pt2(program: ExportedProgram, path: Path) -> None:
    """Save a trace: graph as JSON, weights as plain bytes, no example inputs."""
    example_inputs, program.example_inputs = program.example_inputs, None  # an archive would keep them as a pickle
    try:
        with quiet():
            # to memory first: torch ends the whole process if a file on a full disk cannot be closed
            archive = io.BytesIO()
            torch.export.save(program, archive)
            path.write_bytes(archive.getbuffer())
    finally:
        program.example_inputs = example_inputs
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


_RAW = re.compile(
    r"archive_format|archive_version|byteorder|\.data/.*|models/[^/]+\.json|data/aotinductor/.*"
    r"|data/(weights/weight_\d+|constants/tensor_\d+|weights/[^/]+_weights_config\.json|constants/[^/]+_config\.json)"
)
"""Entries of an archive with text, raw numbers or, under ``aotinductor``, native code."""


def check_no_pickle(path: Path) -> None:
    """Raise if loading an archive would unpickle anything, or if it has an entry of an unknown kind.

    Weights and constants are raw bytes unless their line in a config says ``use_pickle`` or is of an object; example
    inputs are always a pickle, so theirs must be empty; older forms of weights are pickles and have other names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            for inside, entry in entries.items():
                empty = inside.startswith("data/sample_inputs/") and not entry.file_size
                if not empty and not _RAW.fullmatch(inside):
                    raise _pickled(path, entry.filename)
                if inside.endswith("_config.json") and not inside.startswith("data/aotinductor/"):
                    for name, payload in json.loads(archive.read(entry))["config"].items():
                        if payload["use_pickle"] is not False or not _RAW_PAYLOAD.fullmatch(payload["path_name"]):
                            raise _pickled(path, name)
    except UnimixerError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnimixerError(f"{path}: not an archive of torch.export ({error}); export the run again") from None


_RAW_PAYLOAD = re.compile(r"(weight|tensor)_\d+")


def _pickled(path: Path, name: str) -> UnimixerError:
    return UnimixerError(f"{path}: {name!r} may be a pickle, and nothing is unpickled here; export the run again")


def open_pt2(path: Path) -> Any:
    """Load a saved trace as a module; the caller checks its inputs."""
    return _opened(path, lambda: torch.export.load(path).module(check_guards=False))


def open_aoti(path: Path) -> Any:
    """Load a compiled graph; this runs native code of the package."""
    return _opened(path, lambda: torch._inductor.aoti_load_package(str(path)))


def _opened(path: Path, load: Callable[[], Any]) -> Any:
    """Load a file, or raise one sentence if torch cannot read it."""
    check_no_pickle(path)
    try:
        with quiet():
            return load()
    except Exception as error:
        here = f"torch {torch.__version__}"
        raise UnimixerError(f"{path}: {here} cannot open it ({first_line(error)}); export the run again") from error
