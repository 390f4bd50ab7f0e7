"""From raw tables to an encoded store: resolve, fit on the training part, encode, describe; whole or not at all."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.data.fit import fit, resolve
from unimixer.data.schema import SPLITS, Schema
from unimixer.data.splits import Splitter
from unimixer.data.store import PartWriter, SplitSummary, Store, write_manifest
from unimixer.data.tables import RawTables
from unimixer.data.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.files import atomic_folder
from unimixer.progress import progress_bar


def prepare(
    tables: RawTables, out: Path | str, *, overwrite: bool = False, origin: dict[str, Any] | None = None
) -> Store:
    """Write the encoded store of raw tables.

    Args:
        tables: what an adapter found.
        out: folder to make.
        overwrite: replace an existing store.
        origin: facts on where the data came from, kept in the manifest.

    Raises:
        UnimixerError: a missing column, a value of the wrong type (with its row), an empty part, a label of one class.
    """
    out = Path(out)
    if overwrite:
        _check_replaceable(out)
    with atomic_folder(out, overwrite=overwrite) as folder:
        schema = resolve(tables)
        transform, splitter = fit(tables, schema)
        transform.save(folder / "transform")
        summaries = _encode(tables, transform, splitter, folder)
        check_labels(schema, summaries["train"], "train")
        facts = {"name": schema.name, "unimixer": version("unimixer"), "origin": origin or {}}
        write_manifest(folder, summaries, facts)
    return Store(out)


def _encode(tables: RawTables, transform: Transform, splitter: Splitter, folder: Path) -> dict[str, SplitSummary]:
    """Write the parts of all splits in one pass over the log."""
    writers = [PartWriter(folder, split, transform) for split in SPLITS]
    first_row = 0
    with progress_bar("encoding", tables.num_rows) as advance:
        for chunk in tables.impressions():
            rows = transform.encode(chunk, labels=True, first_row=first_row)
            split = splitter(rows.times, first_row)
            for number, writer in enumerate(writers):
                writer.add(rows.take(np.flatnonzero(split == number)))
            first_row += chunk.frame.height
            advance(chunk.frame.height)
    return {name: writer.close() for name, writer in zip(SPLITS, writers, strict=True)}


def _check_replaceable(out: Path) -> None:
    """Only a store may be replaced by a store: a slip of the finger must not delete a folder of something else."""
    if out.exists() and not (out / "manifest.json").is_file():
        raise UnimixerError(f"{out} exists and is not a prepared store, so it is not replaced; choose another folder")


def check_labels(schema: Schema, summary: SplitSummary, split: str) -> None:
    """Raise if a label has one class only: nothing can be learned from it or measured by it."""
    for label, positives in zip(schema.labels, summary.positives, strict=True):
        if positives in (0, summary.rows):
            value = 1 if positives else 0
            raise UnimixerError(
                f"label {label.name!r} is {value} in all {summary.rows:,} rows of the {split} part; "
                "a binary label needs both classes: drop it from the schema, or change its threshold or the split"
            )
