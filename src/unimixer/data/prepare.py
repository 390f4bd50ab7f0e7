"""From raw tables to a dataset: resolve, fit on the training part, encode, describe; whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unimixer.data import write_dataset
from unimixer.data.dataset import Dataset, SplitSummary
from unimixer.data.encoding.counts import add_counts
from unimixer.data.encoding.fit import fit
from unimixer.data.encoding.layout import resolve
from unimixer.data.encoding.pending import save_pending
from unimixer.data.ineffective import without_effect
from unimixer.data.raw.passes import LogReader, run_shard
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import Schema
from unimixer.data.write_dataset import Encode, encode, write_manifest
from unimixer.errors import UnimixerError, check_positive
from unimixer.features.spec import FeatureSpec
from unimixer.io import DATASET, atomic_folder
from unimixer.progress import note
from unimixer.workers.ray import executor_on

WORK = ".work"
"""Folder inside the unfinished dataset for files of the workers."""


def prepare(
    tables: RawTables,
    out: Path | str,
    *,
    overwrite: bool = False,
    origin: dict[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
) -> Dataset:
    """Write raw tables as a dataset; it is the same for any number of workers.

    Args:
        tables: raw data, as an adapter opens it.
        out: folder to make.
        overwrite: replace an existing dataset.
        origin: facts on where the data came from, kept in the manifest.
        workers: processes that read the log and write the parts.
        ray: let workers of a Ray cluster do it: ``local``, ``auto`` or the address of a head.

    Raises:
        UnimixerError: a missing column, a value of the wrong type (with its row), an empty part, a label of one class,
            a worker that died.
        MissingExtraError: ``ray`` is given and the package is not installed.
    """
    out = Path(out)
    check_positive(workers=workers)
    for remark in without_effect(tables.schema):
        note(remark)
    with atomic_folder(out, overwrite=overwrite, kind=DATASET) as folder:
        tables, log_end = add_counts(tables)
        schema = resolve(tables)
        with _log_reader(tables, workers, ray, folder.absolute() / WORK) as reader:
            fitted = fit(schema, reader)
            fitted.transform.with_log_end(log_end).save(folder / "transform")
            save_pending(folder, fitted.pending)
            matches, spec = [asdict(match) for match in fitted.matches], fitted.transform.spec
            encoding = Encode(folder.absolute(), fitted.splitter, fitted.rows, write_dataset.PART_ROWS)
            del fitted  # the workers read what was saved; only then is the memory of the first pass free
            summaries = encode(reader, encoding)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        check_labels(schema, summaries["train"], "train")
        check_features(schema, spec, summaries["train"])
        facts = {"name": schema.name, "unimixer": version("unimixer"), "origin": origin or {}, "matches": matches}
        facts |= tables.facts
        write_manifest(folder, summaries, facts)
        if schema.weight is not None:
            check_weights(schema.weight, Dataset(folder))
    return Dataset(out)


@contextmanager
def _log_reader(tables: RawTables, workers: int, ray: str | None, folder: Path) -> Iterator[LogReader]:
    """Start the workers that read the log; one worker without Ray is this process."""
    if workers == 1 and ray is None:
        yield LogReader(tables)
        return
    folder.mkdir()
    threads = 1 if ray is not None else max(1, (os.cpu_count() or 1) // workers)
    make = executor_on(ray, "preparing on a Ray cluster", imports_main=True)
    with make(run_shard, workers=workers, threads=threads, log=None) as executor:
        if executor.free < workers:
            raise UnimixerError(
                f"--workers {workers}: the cluster has {executor.free} cores, and every worker needs one; "
                f"use --workers {executor.free} or fewer"
            )
        yield LogReader(tables, executor, folder)


def check_labels(schema: Schema, summary: SplitSummary, split: str) -> None:
    """Raise if a label has one class only: nothing can be learned from it or measured by it."""
    for label, positives in zip(schema.labels, summary.positives, strict=True):
        if positives in (0, summary.rows):
            value = 1 if positives else 0
            raise UnimixerError(
                f"label {label.name!r} is {value} in all {summary.rows:,} rows of the {split} part; "
                "a binary label needs both classes: drop it from the schema, or change its threshold or the split"
            )


def check_weights(name: str, dataset: Dataset) -> None:
    """Raise if no row of the training part has a weight: every step would leave the model as it is."""
    train = dataset.summary("train")
    for number in range(len(train.parts)):
        weights = dataset.part("train", number).weights
        if weights is not None and weights.any():
            return
    raise UnimixerError(
        f"weight {name!r} is 0 in all {train.rows:,} rows of the train part, so that nothing can be learned; correct "
        "the column, or leave weight out of the schema"
    )


def check_features(schema: Schema, spec: FeatureSpec, train: SplitSummary) -> None:
    """Raise if a feature has no value in the training part; note one whose values are all unknown, or a history."""
    groups = dict(zip(spec.groups, train.lengths, strict=True))
    missing = dict(zip([*(f.name for f in spec.ids), *(f.name for f in spec.dense)], train.missing, strict=True))
    empty = [name for name, rows in missing.items() if rows == train.rows]
    empty += [f.name for f in schema.features if f.kind == "sequence" and f.history is None and not groups[f.name]]
    if empty:
        raise UnimixerError(
            f"feature {', '.join(map(repr, empty))}: no value in any of the {train.rows:,} rows of the train part, so "
            "that nothing can be learned; leave it out of the schema, or correct its column"
        )
    for field, unknown in zip(spec.ids, train.out_of_vocabulary, strict=True):
        if unknown and unknown + missing[field.name] == train.rows:
            note(
                f"feature {field.name!r}: all its values in the train part are unknown, because none occurs often "
                "enough; lower min_count of its vocabulary, or leave it out"
            )
    for history in schema.histories:
        if groups.get(history.name) == 0:
            note(f"history {history.name!r} is empty in all {train.rows:,} rows of the train part")
