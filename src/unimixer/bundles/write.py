"""Write a finished run as a bundle for serving, checked against the model before it gets its name."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unimixer.bundles.bundle import Bundle, id_limits, open_bundle
from unimixer.bundles.checks import (
    ROWS,
    TOLERANCE,
    Difference,
    HeldOut,
    Score,
    auc_change,
    cases,
    check,
    differences,
    expected_logits,
)
from unimixer.bundles.graph import RequestRanker, feed
from unimixer.bundles.manifest import made_with, write_manifest
from unimixer.bundles.onnx_file import CONFIG, EXTERNAL_BYTES, GRAPH, config, require_onnx, weight_bytes, write_onnx
from unimixer.bundles.precision import PRECISIONS, reduce
from unimixer.bundles.program import trace
from unimixer.bundles.pt2_file import write_aoti, write_pt2
from unimixer.bundles.requests import FILE, made_batch, request_from, save_requests
from unimixer.bundles.runners import FILES, FORMATS, Runner, Scores, open_runner
from unimixer.bundles.steps_file import STEPS, open_kernels, write_steps
from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import FIRST_ROW, EntityTable, KeyIndex
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.encoding.layout import request_layout
from unimixer.data.encoding.transform import Transform
from unimixer.data.loader import Loader
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.io import BUNDLE, atomic_folder
from unimixer.progress import say, stage
from unimixer.training.convert import hardened_ranker
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder, dataset_of

LAYOUTS = ("triton",)
HELD_OUT_REQUESTS, HELD_OUT_CANDIDATES = 8, 64
MOST_GROUPS = 20_000_000
"""Largest number of groups, over all counts, whose numbers a bundle carries."""
LARGEST = 2_000
"""Candidates of the largest request that an export is checked with."""


@dataclass(frozen=True)
class ExportOptions:
    """Choose the form of a bundle.

    Args:
        format: ``onnx`` (for onnxruntime), ``pt2`` (torch.export) or ``aoti`` (compiled for this kind of processor).
        harden: make learned mixings hard first: ``permutation``, or ``top-K`` such as ``top-4``.
        precision: ``float32``; ``float16`` keeps weights as such and computes in float32; ``int8`` is onnxruntime's
            dynamic quantization. The latter two are for ``onnx``.
        layout: ``triton``: the bundle is also a model folder of NVIDIA Triton.
        external_data: keep weights in a file beside the ONNX graph (default: from 1.5 GB on).
        auc_rows: number of held-out rows for the AUC.
        largest: number of candidates of the largest request of the check.
    """

    format: str = "onnx"
    harden: str | None = None
    precision: str = "float32"
    layout: str | None = None
    external_data: bool | None = None
    auc_rows: int = ROWS
    largest: int = LARGEST

    def check(self) -> None:
        """Raise, before any work, for a bundle that cannot be written."""
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


DEFAULTS = ExportOptions()


@states_kept()
def export_run(
    run: Path | str,
    out: Path | str,
    options: ExportOptions = DEFAULTS,
    *,
    dataset: Path | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a run's best weights as a bundle, check it, and open it.

    Scores of the written graph are compared with those of the model on held-out requests, at one, two and ``largest``
    candidates, with empty sequences, unknown ids and missing values; nothing is left if they differ by more than
    the tolerance of the precision, :data:`unimixer.bundles.checks.TOLERANCE`. If the model itself is changed, by
    ``harden`` or by a lower precision, the AUC before and after goes into the manifest (``quality``).

    Args:
        run: a run folder with best weights.
        out: folder of the bundle.
        options: the form of the bundle.
        dataset: the dataset, if it moved since the training; without any, held-out requests come from made-up rows.
        overwrite: replace an earlier bundle.

    Raises:
        UnimixerError: not a run, ``out`` exists, an option does not fit, an optional package or the compiler is
            missing, the model cannot be exported, or the graph does not give its scores.
    """
    options.check()
    source, target = RunFolder(run), Path(out)
    with atomic_folder(target, overwrite=overwrite, kind=BUNDLE) as folder:
        _Writer(source, options, dataset).write(folder)
    return open_bundle(target)


class _Writer:
    """Write one bundle."""

    def __init__(self, run: RunFolder, options: ExportOptions, dataset: Path | None) -> None:
        self.run, self.options = run, options
        self.transform, self.tasks = _with_few_groups(run.transform), tuple(run.recipe.tasks)
        self.trained = load_ranker(run)
        self.ranker = self.trained if options.harden is None else hardened_ranker(self.trained, options.harden, run)
        self.layout = request_layout(self.transform.schema)
        self.held_out = _held_out(run, dataset, options.auc_rows)

    def write(self, folder: Path) -> None:
        """Fill the folder of the bundle."""
        # eight bits are for products of matrices, which convolutions are not
        batch_last = self.options.format == "onnx" and self.options.precision != "int8"
        graph = RequestRanker(self.ranker, self.layout, batch_last=batch_last)
        file = GRAPH if self.options.layout == "triton" else FILES[self.options.format]
        (folder / file).parent.mkdir(exist_ok=True)
        with stage("writing the graph"):
            self._write_graph(graph, folder, folder / file)
        requests = held_out_requests(self._held_out_batch(), self.layout)
        score = _scorer(open_runner(self.options.format, folder / file, graph.inputs, None), graph)
        with stage("comparing the graph with the model"):
            parity = self._check(score, requests)
            self._check_kernels(graph, folder, folder / file, requests)
        logits = [expected_logits(self.ranker, request) for request in requests]
        save_requests(folder / FILE, graph.inputs, requests, logits)
        without_entities(self.transform).save(folder / "transform")
        if self.options.layout == "triton":
            (folder / CONFIG).write_text(config(graph.inputs, len(self.tasks)), encoding="utf-8")
        write_manifest(folder, self._manifest(graph, folder, file, parity, self._quality(score)))

    def _write_graph(self, graph: RequestRanker, folder: Path, path: Path) -> None:
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
            if self.options.precision == "float32":
                write_steps(graph, path, folder / STEPS)

    def _held_out_batch(self) -> Batch:
        rows = HELD_OUT_REQUESTS * HELD_OUT_CANDIDATES
        if self.held_out is None:
            return made_batch(self.transform.spec, rows, torch.Generator().manual_seed(0))
        loader = Loader(self.held_out.dataset, self.held_out.split, batch_size=rows, shuffle=True, num_workers=0)
        return next(loader.batches())

    def _check(self, score: Score, requests: list[Request]) -> dict[str, Difference]:
        kinds = cases(requests, self.options.largest)
        by_kind = differences(score, lambda request: expected_logits(self.ranker, request), kinds)
        check(by_kind, TOLERANCE[self.options.precision])
        return by_kind

    def _check_kernels(self, graph: RequestRanker, folder: Path, file: Path, requests: list[Request]) -> None:
        """Compare the steps for the C kernels with the model, if there are any and this machine can build these."""
        if (folder / STEPS).exists():
            limits = id_limits(graph.spec, self.layout)
            kernels = open_kernels(folder / STEPS, file, graph.inputs, limits, None)
            if kernels is not None:
                self._check(_scorer(kernels, graph), requests)

    def _quality(self, score: Score) -> dict[str, Any] | None:
        """Measure the AUC before and after, if the model was changed and there are labels."""
        if self.held_out is None or (self.options.harden is None and self.options.precision == "float32"):
            return None
        return auc_change(self.trained, score, self.layout, self.held_out)

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
                "steps": STEPS if (folder / STEPS).exists() else None,
                "precision": self.options.precision,
                "harden": self.options.harden,
                "layout": self.options.layout,
                "inputs": [{**asdict(one), "rows": one.rows} for one in graph.inputs],
            },
            "layout": {**asdict(self.layout), "user_groups": list(self.layout.user_groups)},
            "spec": graph.spec.to_json(),
            "vocabularies": vocabulary_hash(self.transform),
            "model": {"backbone": recipe.model.backbone, "seed": recipe.training.seed},
            "trained": {"commit": made["commit"], "data": made["data"]["hash"], "versions": made["versions"]},
            "exported": made_with(self.options.format, folder / file),
            "held_out": {"from": "made-up rows" if self.held_out is None else self.held_out.split},
            "parity": {
                "tolerance": TOLERANCE[self.options.precision],
                "cases": {kind: asdict(difference) for kind, difference in parity.items()},
            },
            "quality": quality,
        }


def _scorer(runner: Runner, graph: RequestRanker) -> Score:
    def score(request: Request) -> tuple[Scores, Scores]:
        return runner(feed(graph.inputs, request))

    return score


def held_out_requests(batch: Batch, layout: RequestLayout) -> list[Request]:
    """Let users of the batch ask for the items and contexts of other rows."""
    size = max(1, min(HELD_OUT_CANDIDATES, len(batch)))
    count = max(1, min(HELD_OUT_REQUESTS, len(batch) // size))
    return [request_from(batch, layout, n * size, n * size, (n + 1) * size) for n in range(count)]


def without_entities(transform: Transform) -> Transform:
    """Copy a transform without users, items and histories, which belong to a feature store.

    The tables keep rows 0 and 1, the encoded rows of a missing and of an unknown key, so raw rows still become batches,
    with the features of their own columns.
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


def _with_few_groups(transform: Transform) -> Transform:
    """Leave the counts at the end of the log out of a bundle where they are too many."""
    end = transform.log_end
    groups = 0 if end is None else sum(len(total.groups) - FIRST_ROW for total in end.totals.values())
    if groups <= MOST_GROUPS:
        return transform
    say(
        f"note: the counts have {groups:,} groups and a bundle carries at most {MOST_GROUPS:,}, so it is written "
        "without them; requests bring their counts along"
    )
    return transform.with_log_end(None)


def vocabulary_hash(transform: Transform) -> str:
    """Hash the mapping from values to rows of the tables: models of one hash read each other's encoded requests."""
    digest = hashlib.sha256()
    for name, vocabulary in sorted(transform.vocabularies.items()):
        digest.update(f"{name}\0{vocabulary.num_buckets}\0{len(vocabulary.texts)}\0".encode())
        for text in vocabulary.texts:
            digest.update(f"{len(text)}:{text}".encode())
        if vocabulary.form != "text":
            digest.update(vocabulary.form.encode())
    return digest.hexdigest()[:16]


def _held_out(run: RunFolder, folder: Path | None, rows: int) -> HeldOut | None:
    """Open the test part of the run's dataset, or validation if that is empty; None if the dataset is out of reach."""
    try:
        dataset = dataset_of(run, folder)
    except UnimixerError as error:
        if folder is not None:  # asked for by name: then it must be there
            raise
        say(f"scores are compared on made-up rows, and no AUC is measured: {error}")
        return None
    split = next((name for name in ("test", "validation") if dataset.summary(name).rows), None)
    return HeldOut(dataset, split, tuple(run.recipe.tasks), rows) if split else None
