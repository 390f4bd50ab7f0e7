"""A bundle, opened: what turns a request into probabilities, without the training that made it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimixer.data.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.export.graph import CANDIDATES, Input, feed, signature
from unimixer.export.held_out import FILE, load_requests
from unimixer.export.made_with import check_made_with
from unimixer.export.manifest import read_manifest
from unimixer.export.onnx_file import external_files
from unimixer.export.runners import FORMATS, open_runner
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec
from unimixer.progress import say


class Bundle:
    """Graph, weights, schema and vocabularies of one model. May be called from any number of threads.

    Args:
        folder: a verified bundle; :func:`open_bundle` verifies it.
        manifest: its table of contents.
        threads: of one call (default: the runtime's own choice); a setting of the whole process where torch runs the
            graph (``pt2`` and ``aoti``).

    Attributes:
        version: hash of the content.
        tasks: columns of the scores.
        transform: schema, vocabularies and numeric statistics; its tables of users and items have the rows of missing
            and unknown keys alone, and its histories are empty: those belong to a feature store.
        layout: which part of a batch is the user's.
        inputs: tensors of the graph in their order.
        manifest: everything that the export wrote down.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], threads: int | None = None) -> None:
        self.folder, self.manifest = folder, manifest
        try:
            graph, layout = manifest["graph"], manifest["layout"]
            self.version, self.tasks = str(manifest["version"]), tuple(manifest["tasks"])
            self.spec = FeatureSpec.from_json(manifest["spec"])
            self.layout = RequestLayout(layout["user_ids"], layout["user_dense"], tuple(layout["user_groups"]))
            self.format, file = str(graph["format"]), str(graph["file"])
            files, tolerance = manifest["files"], float(manifest["parity"]["tolerance"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnimixerError(f"{folder}: its manifest lacks {error}; export the run again") from None
        if self.format not in FORMATS:
            raise UnimixerError(f"{folder}: graph format {self.format!r} is none of {', '.join(FORMATS)}")
        external = external_files(folder / file) if self.format == "onnx" and file in files else set()
        beside = {(PurePosixPath(file).parent / name).as_posix(): "file of weights" for name in sorted(external)}
        read = {file: "graph", **beside, FILE: "file of held-out requests", "transform/transform.json": "transform"}
        for name, kind in read.items():
            if name not in files:
                raise UnimixerError(f"{folder}: its {kind} {name!r} is not among its files; export the run again")
        proof = check_made_with(folder, self.format, manifest.get("exported"))
        self.transform = Transform.load(folder / "transform")
        self.inputs: tuple[Input, ...] = signature(self.spec, self.layout)
        self._limits = _limits(self.spec, self.layout)
        self._runner = open_runner(self.format, folder / file, self.inputs, threads)
        if proof:
            self._prove(tolerance)

    def score(self, request: Request) -> NDArray[np.float32]:
        """Probabilities ``(N, tasks)`` of the candidates in their order.

        Raises:
            UnimixerError: if the request is not one of this bundle's layout, or holds an id that no table has.
        """
        return self._run(request)[1]

    def logits(self, request: Request) -> NDArray[np.float32]:
        """Logits ``(N, tasks)``."""
        return self._run(request)[0]

    def run(self, tensors: tuple[Tensor, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits and probabilities of the tensors of ``inputs`` as they are, unchecked."""
        return self._runner(tensors)

    def held_out(self) -> list[tuple[Request, Tensor]]:
        """Real requests with the logits that the trained model gave them."""
        return load_requests(self.folder / FILE, self.inputs)

    def parity(self) -> float:
        """Largest difference of a probability from that of the trained model, over :meth:`held_out`."""
        return max(float(np.abs(self.score(r) - torch.sigmoid(e).numpy()).max()) for r, e in self.held_out())

    def _prove(self, tolerance: float) -> None:
        """Raise unless the scores of the held-out requests are still those of the trained model."""
        made, here = self.manifest["exported"]["versions"]["torch"], torch.__version__
        difference = self.parity()
        if not difference <= tolerance:
            raise UnimixerError(
                f"{self.folder}: written by torch {made}; with torch {here} a probability of its held-out requests "
                f"moves by {difference:.2g}, more than {tolerance:g}; export the run again with this torch"
            )
        say(f"{self.folder}: written by torch {made}; with torch {here} its held-out requests have the same scores")

    def _run(self, request: Request) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if len(request) == 0:
            nothing = np.zeros((0, len(self.tasks)), dtype=np.float32)
            return nothing, nothing
        try:
            tensors = feed(self.inputs, request)
        except KeyError as error:
            raise UnimixerError(f"the request lacks {error}; encode it with the transform of this bundle") from None
        self._check(tensors, len(request))
        return self._runner(tensors)

    def _check(self, tensors: tuple[Tensor, ...], candidates: int) -> None:
        """Refuse what the graph would read wrongly instead of refusing: in packed tables any row is somebody's."""
        rows: dict[Any, int] = {1: 1, CANDIDATES: candidates, f"{CANDIDATES} + 1": candidates + 1}
        for found, tensor in zip(self.inputs, tensors, strict=True):
            expected = rows.get(found.rows, tensor.shape[0])
            shape = (expected,) if found.width is None else (expected, found.width)
            if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{found.dtype}":
                raise UnimixerError(
                    f"{found.name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected torch.{found.dtype} of "
                    f"shape {shape}; encode requests with the transform of this bundle"
                )
            if found.dtype == "int32" and tensor.numel():
                self._check_ids(found, tensor)
            elif found.width is None:
                _check_offsets(found.name, tensor, len(tensors[self._place(found)]))

    def _check_ids(self, found: Input, ids: Tensor) -> None:
        limits, longest = self._limits[found.name]
        values = ids.numpy()
        high, low = values.max(0), int(values.min())
        if low < 0 or bool((high >= limits).any()):
            column = int((high >= limits).argmax()) if low >= 0 else int(values.min(0).argmin())
            value = low if low < 0 else int(high[column])
            raise UnimixerError(
                f"{found.name}, column {column}: id {value} is out of range, its table has rows 0 to "
                f"{int(limits[column]) - 1}; encode requests with the transform of this bundle"
            )
        if longest is not None and len(ids) > longest:
            raise UnimixerError(f"{found.name} has {len(ids)} events, the model reads at most {longest}")

    def _place(self, offsets: Input) -> int:
        name = f"{offsets.name.removesuffix('.offsets')}.values"
        return next(place for place, found in enumerate(self.inputs) if found.name == name)


def _check_offsets(name: str, offsets: Tensor, values: int) -> None:
    if int(offsets[0]) != 0 or int(offsets[-1]) != values or bool((offsets.diff() < 0).any()):
        raise UnimixerError(f"{name} must rise from 0 to the number of values, {values}")


def _limits(spec: FeatureSpec, layout: RequestLayout) -> dict[str, tuple[NDArray[np.int32], int | None]]:
    """Rows of the tables behind every tensor of ids, and the longest list where a tensor is one."""
    ids = np.asarray([spec.tables[field.table] for field in spec.ids], dtype=np.int32)
    found: dict[str, tuple[NDArray[np.int32], int | None]] = {
        "user.ids": (ids[: layout.user_ids], None),
        "candidates.ids": (ids[layout.user_ids :], None),
    }
    for group, fields in spec.groups.items():
        rows = np.asarray([spec.tables[field.table] for field in fields], dtype=np.int32)
        found[f"{group}.values"] = rows, fields[0].max_length if group in layout.user_groups else None
    return found


def open_bundle(folder: Path | str, *, threads: int | None = None) -> Bundle:
    """Open a bundle after its format version and the checksum of every file were verified.

    Nothing is unpickled. A checksum shows damage and careless changes; it is no signature, so take bundles from where
    you would take programs.

    Args:
        folder: what ``unimixer export`` wrote.
        threads: see :class:`Bundle`.

    Raises:
        UnimixerError: if the folder is no bundle, or a file is missing, truncated or changed.
    """
    folder = Path(folder)
    return Bundle(folder, read_manifest(folder), threads)
