"""From a finished run to a bundle: everything that serving needs, checked against the model before it gets its name."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unimixer.api import hardened_ranker
from unimixer.data.dataset import Store
from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import FIRST_ROW, EntityTable, KeyIndex
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.encoding.layout import request_layout
from unimixer.data.encoding.transform import Transform
from unimixer.data.loader import Loader
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.export.bundle import Bundle, open_bundle
from unimixer.export.graph import Input, RequestRanker
from unimixer.export.held_out import FILE, save_requests
from unimixer.export.made_with import made_with
from unimixer.export.manifest import write_manifest
from unimixer.export.onnx_file import EXTERNAL_BYTES, require_onnx, weight_bytes, write_onnx
from unimixer.export.parity import TOLERANCE, Difference, cases, check, differences, expected_logits
from unimixer.export.precision import PRECISIONS, reduce
from unimixer.export.program import trace
from unimixer.export.pt2_file import write_aoti, write_pt2
from unimixer.export.quality import ROWS, auc_change
from unimixer.export.requests import made_batch, request_from
from unimixer.export.runners import FILES, FORMATS, Runner, open_runner
from unimixer.export.triton import CONFIG, GRAPH, config
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.io import atomic_folder
from unimixer.progress import say, stage
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder, store_of

LAYOUTS = ("triton",)
HELD_OUT_REQUESTS, HELD_OUT_CANDIDATES = 8, 64
LARGEST = 2_000
"""Candidates of the largest request that an export is checked with."""


@dataclass(frozen=True)
class Options:
    """How a bundle is written; see :func:`export_run`."""

    format: str = "onnx"
    harden: str | None = None
    precision: str = "float32"
    layout: str | None = None
    external_data: bool | None = None
    auc_rows: int = ROWS
    largest: int = LARGEST

    def check(self) -> None:
        """Raise for what cannot be written, before any work."""
        check_choice("format", self.format, FORMATS)
        check_choice("precision", self.precision, PRECISIONS)
        check_positive(auc_rows=self.auc_rows, largest=self.largest)
        if self.layout is not None:
            check_choice("layout", self.layout, LAYOUTS)
        asked = {"precision": self.precision != "float32", "layout": self.layout, "external_data": self.external_data}
        for name, wanted in asked.items():
            if wanted and self.format != "onnx":
                raise UnimixerError(f"{name}={getattr(self, name)!r} is for format 'onnx' alone, not {self.format!r}")
        if self.format == "onnx":
            require_onnx()


@states_kept()
def export_run(
    run: Path | str,
    out: Path | str,
    *,
    format: str = "onnx",
    harden: str | None = None,
    precision: str = "float32",
    layout: str | None = None,
    external_data: bool | None = None,
    store: Path | None = None,
    auc_rows: int = ROWS,
    largest: int = LARGEST,
    overwrite: bool = False,
) -> Bundle:
    """Write a run's best weights as a bundle, check it, and open it.

    Scores of the written graph are compared with those of the model on held-out requests, at one, two and ``largest``
    candidates, with empty sequences, unknown ids and missing values; nothing is left where they differ by more than
    the tolerance of the precision, :data:`unimixer.export.parity.TOLERANCE`. Where the model itself is changed, by
    ``harden`` or by a lower precision, the AUC before and after goes into the manifest (``quality``).

    Args:
        run: a run folder with best weights.
        out: folder of the bundle.
        format: ``onnx`` (for onnxruntime), ``pt2`` (torch.export) or ``aoti`` (compiled for this kind of processor).
        harden: make learned mixings hard first: ``permutation``, or ``top-K`` such as ``top-4``.
        precision: ``float32``; ``float16`` keeps weights as such and computes in float32; ``int8`` is onnxruntime's
            dynamic quantisation. The latter two are for ``onnx``.
        layout: ``triton``: the bundle is also a model folder of NVIDIA Triton.
        external_data: weights in a file beside the ONNX graph (default: from 1.5 GB on).
        store: the store, where it moved since the training; without any, held-out requests come from made-up rows.
        auc_rows: held-out rows for the AUC.
        largest: candidates of the largest request of the check.
        overwrite: replace an earlier bundle.

    Raises:
        UnimixerError: not a run, ``out`` exists, an option does not fit, an optional package or the compiler is
            missing, the model cannot be exported, or the graph does not give its scores.
    """
    options = Options(format, harden, precision, layout, external_data, auc_rows, largest)
    options.check()
    source, target = RunFolder(run), Path(out)
    with atomic_folder(target, overwrite=overwrite) as folder:
        _Writer(source, options, store).write(folder)
    return open_bundle(target)


class _Writer:
    """One export."""

    def __init__(self, run: RunFolder, options: Options, store: Path | None) -> None:
        self.run, self.options = run, options
        self.transform, self.tasks = run.transform, tuple(run.recipe.tasks)
        self.trained = load_ranker(run)
        self.ranker = self.trained if options.harden is None else hardened_ranker(self.trained, options.harden, run)
        self.layout = request_layout(self.transform.schema)
        self.store, self.split = _held_out_store(run, store)

    def write(self, folder: Path) -> None:
        """Fill the folder of the bundle."""
        # eight bits are for products of matrices, which convolutions are not
        batch_last = self.options.format == "onnx" and self.options.precision != "int8"
        graph = RequestRanker(self.ranker, self.layout, batch_last=batch_last)
        file = GRAPH if self.options.layout == "triton" else FILES[self.options.format]
        (folder / file).parent.mkdir(exist_ok=True)
        with stage("writing the graph"):
            self._write_graph(graph, folder / file)
        requests = held_out_requests(self._held_out_batch(), self.layout)
        runner = open_runner(self.options.format, folder / file, graph.inputs, None)
        with stage("comparing the graph with the model"):
            parity = self._check(runner, graph.inputs, requests)
        logits = [expected_logits(self.ranker, request) for request in requests]
        save_requests(folder / FILE, graph.inputs, requests, logits)
        bare(self.transform).save(folder / "transform")
        if self.options.layout == "triton":
            (folder / CONFIG).write_text(config(graph.inputs, len(self.tasks)), encoding="utf-8")
        write_manifest(folder, self._manifest(graph, folder, file, parity, self._quality(runner, graph.inputs)))

    def _write_graph(self, graph: RequestRanker, path: Path) -> None:
        program = trace(graph)
        if self.options.format == "pt2":
            write_pt2(program, path)
        elif self.options.format == "aoti":
            write_aoti(graph, program, path)
        else:
            external = self.options.external_data
            external = weight_bytes(program) > EXTERNAL_BYTES if external is None else external
            write_onnx(graph, program, path, external=external)
            reduce(path, self.options.precision, external=external)

    def _held_out_batch(self) -> Batch:
        rows = HELD_OUT_REQUESTS * HELD_OUT_CANDIDATES
        if self.store is None:
            return made_batch(self.transform.spec, rows, torch.Generator().manual_seed(0))
        loader = Loader(self.store, self.split, batch_size=rows, shuffle=True, num_workers=0)
        return next(loader.batches())

    def _check(self, runner: Runner, inputs: tuple[Input, ...], requests: list[Request]) -> dict[str, Difference]:
        kinds = cases(requests, self.options.largest)
        found = differences(inputs, runner, lambda request: expected_logits(self.ranker, request), kinds)
        check(found, TOLERANCE[self.options.precision])
        return found

    def _quality(self, runner: Runner, inputs: tuple[Input, ...]) -> dict[str, Any] | None:
        """AUC before and after, where the model was changed and there are labels."""
        if self.store is None or (self.options.harden is None and self.options.precision == "float32"):
            return None
        place = (self.layout, self.store, self.split, self.tasks, self.options.auc_rows)
        return auc_change(self.trained, runner, inputs, *place)

    def _manifest(
        self,
        graph: RequestRanker,
        folder: Path,
        file: str,
        parity: dict[str, Difference],
        quality: dict[str, Any] | None,
    ) -> dict[str, Any]:
        recipe, made = self.run.recipe, self.run.environment
        return {
            "name": recipe.name,
            "tasks": list(self.tasks),
            "graph": {
                "format": self.options.format,
                "file": file,
                "precision": self.options.precision,
                "harden": self.options.harden,
                "layout": self.options.layout,
                "inputs": [{**asdict(found), "rows": found.rows} for found in graph.inputs],
            },
            "layout": {**asdict(self.layout), "user_groups": list(self.layout.user_groups)},
            "spec": graph.spec.to_json(),
            "vocabularies": vocabulary_hash(self.transform),
            "model": {"backbone": recipe.model.backbone, "seed": recipe.training.seed},
            "trained": {"commit": made["commit"], "data": made["data"]["hash"], "versions": made["versions"]},
            "exported": made_with(self.options.format, folder / file),
            "held_out": {"from": self.split if self.store is not None else "made-up rows"},
            "parity": {
                "tolerance": TOLERANCE[self.options.precision],
                "cases": {kind: asdict(found) for kind, found in parity.items()},
            },
            "quality": quality,
        }


def held_out_requests(batch: Batch, layout: RequestLayout) -> list[Request]:
    """Requests of users of the batch for other rows' items and contexts."""
    size = max(1, min(HELD_OUT_CANDIDATES, len(batch)))
    count = max(1, min(HELD_OUT_REQUESTS, len(batch) // size))
    return [request_from(batch, layout, n * size, n * size, (n + 1) * size) for n in range(count)]


def bare(transform: Transform) -> Transform:
    """The transform without users, items and histories, which belong to a feature store.

    What is left of the tables are their rows 0 and 1, what a missing and an unknown key is encoded as; so raw rows
    still become batches, with the features that they bring along.
    """

    def two_rows(table: EntityTable) -> EntityTable:
        rows = np.arange(FIRST_ROW)
        lists = {name: ragged.take(rows) for name, ragged in table.lists.items()}
        ids, dense = np.ascontiguousarray(table.ids[:FIRST_ROW]), np.ascontiguousarray(table.dense[:FIRST_ROW])
        shown = table.history_ids[:FIRST_ROW] if len(table.history_ids) else table.history_ids
        return EntityTable(KeyIndex(), ids, dense, lists, np.ascontiguousarray(shown))

    nothing = np.zeros(FIRST_ROW + 1, dtype=np.int64)
    events = Ragged(np.zeros(0, dtype=np.int32), nothing), Ragged(np.zeros(0, dtype=np.int64), nothing)
    return replace(
        transform,
        users=two_rows(transform.users),
        items=two_rows(transform.items),
        histories={name: HistoryIndex(*events, history.max_length) for name, history in transform.histories.items()},
    )


def vocabulary_hash(transform: Transform) -> str:
    """Names the mapping from values to rows of the tables: models of one hash read each other's encoded requests."""
    found = hashlib.sha256()
    for name, vocabulary in sorted(transform.vocabularies.items()):
        found.update(f"{name}\0{vocabulary.num_buckets}\0{len(vocabulary.texts)}\0".encode())
        for text in vocabulary.texts:
            found.update(f"{len(text)}:{text}".encode())
        if vocabulary.form != "text":
            found.update(vocabulary.form.encode())
    return found.hexdigest()[:16]


def _held_out_store(run: RunFolder, folder: Path | None) -> tuple[Store | None, str]:
    """The store of the run with its test part, or validation where that is empty; None where it is out of reach."""
    try:
        store = store_of(run, folder)
    except UnimixerError as error:
        if folder is not None:  # asked for by name: then it must be there
            raise
        say(f"scores are compared on made-up rows, and no AUC is measured: {error}")
        return None, ""
    split = next((name for name in ("test", "validation") if store.summary(name).rows), None)
    return (store, split) if split else (None, "")
