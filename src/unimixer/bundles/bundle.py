"""Open a bundle and score requests with it, without the training that made it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimixer.bundles.graph import CANDIDATES, Input, feed, signature
from unimixer.bundles.manifest import check_made_with, read_manifest
from unimixer.bundles.onnx_file import external_files
from unimixer.bundles.requests import FILE, load_requests
from unimixer.bundles.runners import FORMATS, Runner, open_runner
from unimixer.bundles.steps_file import open_kernels
from unimixer.data.encoding.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec
from unimixer.progress import say


class Bundle:
    """Score requests with the graph, weights, schema and vocabularies of one model, from any number of threads.

    Args:
        folder: a verified bundle; :func:`open_bundle` verifies it.
        manifest: its table of contents.
        threads: of one call (default: the runtime's own choice); a setting of the whole process if torch runs the
            graph (``pt2`` and ``aoti``).
        kernels: let C kernels score, if the bundle has steps for them and this machine can build them; otherwise the
            runtime of the graph scores.

    Attributes:
        version: hash of the content.
        tasks: columns of the scores.
        transform: schema, vocabularies and numeric statistics. Its tables of users and items have the rows of missing
            and unknown keys alone, and its histories are empty: those belong to a feature store.
        layout: the part of a batch that belongs to the user.
        inputs: tensors of the graph in their order.
        manifest: all facts that the export wrote.
        scored_by: ``kernels``, or the format of the graph.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], threads: int | None = None, *, kernels: bool = True
    ) -> None:
        self.folder, self.manifest = folder, manifest
        try:
            graph, layout = manifest["graph"], manifest["layout"]
            self.version, self.tasks = str(manifest["version"]), tuple(manifest["tasks"])
            self.spec = FeatureSpec.from_json(manifest["spec"])
            self.layout = RequestLayout(layout["user_ids"], layout["user_dense"], tuple(layout["user_groups"]))
            self.format, file, steps = str(graph["format"]), str(graph["file"]), graph.get("steps")
            files, tolerance = manifest["files"], float(manifest["parity"]["tolerance"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnimixerError(f"{folder}: its manifest lacks {error}; export the run again") from None
        if self.format not in FORMATS:
            raise UnimixerError(f"{folder}: graph format {self.format!r} is none of {', '.join(FORMATS)}")
        external = external_files(folder / file) if self.format == "onnx" and file in files else set()
        beside = {(PurePosixPath(file).parent / name).as_posix(): "file of weights" for name in sorted(external)}
        read = {file: "graph", **beside, FILE: "file of held-out requests", "transform/transform.json": "transform"}
        read |= {} if steps is None else {str(steps): "file of steps"}
        for name, kind in read.items():
            if name not in files:
                raise UnimixerError(f"{folder}: its {kind} {name!r} is not among its files; export the run again")
        proof = check_made_with(folder, self.format, manifest.get("exported"))
        self.transform = Transform.load(folder / "transform")
        self.inputs: tuple[Input, ...] = signature(self.spec, self.layout)
        self._limits = id_limits(self.spec, self.layout)
        # the graph is opened where kernels score too: a damaged one is refused, and it may have to score after all
        graph_runner: Runner = open_runner(self.format, folder / file, self.inputs, threads)
        self._runner = graph_runner
        if steps is not None and kernels and self.format == "onnx":
            self._runner = self._kernels(str(steps), folder / file, threads, tolerance) or graph_runner
        self.scored_by = self.format if self._runner is graph_runner else "kernels"
        if proof:
            self._prove(tolerance)

    def score(self, request: Request) -> NDArray[np.float32]:
        """Compute the probabilities ``(N, tasks)`` of the candidates in their order.

        Raises:
            UnimixerError: if the request has another layout than this bundle, or an id that no table has.
        """
        return self._run(request)[1]

    def logits(self, request: Request) -> NDArray[np.float32]:
        """Compute the logits ``(N, tasks)``."""
        return self._run(request)[0]

    def run(self, tensors: tuple[Tensor, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute logits and probabilities of the tensors of ``inputs`` as they are, unchecked."""
        return self._runner(tensors)

    def held_out(self) -> list[tuple[Request, Tensor]]:
        """Load real requests with the logits that the trained model gave them."""
        return load_requests(self.folder / FILE, self.inputs)

    def parity(self) -> float:
        """Return the largest difference of a probability from that of the trained model, over :meth:`held_out`."""
        return max(float(np.abs(self.score(r) - torch.sigmoid(e).numpy()).max()) for r, e in self.held_out())

    def _kernels(self, steps: str, graph: Path, threads: int | None, tolerance: float) -> Runner | None:
        """Open the kernels, unless the held-out requests do not get the scores of the trained model from them here."""
        kernels = open_kernels(self.folder / steps, graph, self.inputs, self._limits, threads)
        if kernels is None:
            return None
        self._runner = kernels
        difference = self.parity()
        if difference <= tolerance:
            return kernels
        say(
            f"{self.folder}: by the C kernels of this machine a probability of its held-out requests moves by "
            f"{difference:.2g}, more than {tolerance:g}; onnxruntime scores instead"
        )
        return None

    def _prove(self, tolerance: float) -> None:
        """Raise unless the held-out requests still get the scores of the trained model."""
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
        """Refuse tensors that the graph would read wrongly: every row of a packed table belongs to some id."""
        rows: dict[Any, int] = {1: 1, CANDIDATES: candidates, f"{CANDIDATES} + 1": candidates + 1}
        for one, tensor in zip(self.inputs, tensors, strict=True):
            expected = rows.get(one.rows, tensor.shape[0])
            shape = (expected,) if one.width is None else (expected, one.width)
            if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{one.dtype}":
                raise UnimixerError(
                    f"{one.name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected torch.{one.dtype} of "
                    f"shape {shape}; encode requests with the transform of this bundle"
                )
            if one.dtype == "int32" and tensor.numel():
                self._check_ids(one, tensor)
            elif one.width is None:
                _check_offsets(one.name, tensor, len(tensors[self._values_of(one)]))

    def _check_ids(self, one: Input, ids: Tensor) -> None:
        limits, longest = self._limits[one.name]
        values = ids.numpy()
        high, low = values.max(0), int(values.min())
        if low < 0 or bool((high >= limits).any()):
            column = int((high >= limits).argmax()) if low >= 0 else int(values.min(0).argmin())
            value = low if low < 0 else int(high[column])
            raise UnimixerError(
                f"{one.name}, column {column}: id {value} is out of range, its table has rows 0 to "
                f"{int(limits[column]) - 1}; encode requests with the transform of this bundle"
            )
        if longest is not None and len(ids) > longest:
            raise UnimixerError(f"{one.name} has {len(ids)} events, the model reads at most {longest}")

    def _values_of(self, offsets: Input) -> int:
        name = f"{offsets.name.removesuffix('.sequence_offsets')}.sequence_values"
        return next(index for index, one in enumerate(self.inputs) if one.name == name)


def _check_offsets(name: str, offsets: Tensor, values: int) -> None:
    if int(offsets[0]) != 0 or int(offsets[-1]) != values or bool((offsets.diff() < 0).any()):
        raise UnimixerError(f"{name} must rise from 0 to the number of values, {values}")


def id_limits(spec: FeatureSpec, layout: RequestLayout) -> dict[str, tuple[NDArray[np.int32], int | None]]:
    """Count the rows of the tables behind every tensor of ids, and the longest list of a sequence."""
    ids = np.asarray([spec.tables[field.table] for field in spec.ids], dtype=np.int32)
    limits: dict[str, tuple[NDArray[np.int32], int | None]] = {
        "user.sparse_ids": (ids[: layout.user_ids], None),
        "candidates.sparse_ids": (ids[layout.user_ids :], None),
    }
    for group, fields in spec.groups.items():
        rows = np.asarray([spec.tables[field.table] for field in fields], dtype=np.int32)
        limits[f"{group}.sequence_values"] = rows, fields[0].max_length if group in layout.user_groups else None
    return limits


def open_bundle(folder: Path | str, *, threads: int | None = None, kernels: bool = True) -> Bundle:
    """Verify the format version of a bundle and the checksum of every file, then open it.

    Nothing is unpickled. A checksum shows damage and careless changes; it is no signature, so trust the source of a
    bundle as you would trust the source of a program.

    Args:
        folder: the folder that ``unimixer export`` wrote.
        threads: see :class:`Bundle`.
        kernels: see :class:`Bundle`.

    Raises:
        UnimixerError: if the folder is no bundle, or a file is missing, truncated or changed.
    """
    folder = Path(folder)
    return Bundle(folder, read_manifest(folder), threads, kernels=kernels)
