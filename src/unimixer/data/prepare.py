"""From raw tables to an encoded store: resolve, fit on the training part, encode, describe; whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unimixer.data import dataset as store
from unimixer.data.dataset import SplitSummary, Store
from unimixer.data.encode import Encode, encode
from unimixer.data.encoding.fit import fit, resolve
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError, check_positive
from unimixer.io import atomic_folder
from unimixer.workers.tasks import Crew

WORK = ".work"
"""Folder inside the unfinished store for what workers hand over."""


def prepare(
    tables: RawTables,
    out: Path | str,
    *,
    overwrite: bool = False,
    origin: dict[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
) -> Store:
    """Write the encoded store of raw tables; it is the same for any number of workers.

    Args:
        tables: what an adapter found.
        out: folder to make.
        overwrite: replace an existing store.
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
    if overwrite:
        _check_replaceable(out)
    with atomic_folder(out, overwrite=overwrite) as folder:
        schema = resolve(tables)
        with _crew(tables, workers, ray, folder) as crew:
            fitted = fit(schema, crew)
            fitted.transform.save(folder / "transform")
            matches = [asdict(one) for one in fitted.matches]
            task = Encode(folder.absolute(), fitted.splitter, fitted.rows, store.PART_ROWS)
            del fitted  # the workers read what was saved; only then is the memory of the first pass free
            summaries = encode(crew, task)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        check_labels(schema, summaries["train"], "train")
        facts = {"name": schema.name, "unimixer": version("unimixer"), "origin": origin or {}, "matches": matches}
        store.write_manifest(folder, summaries, facts)
    return Store(out)


def _crew(tables: RawTables, workers: int, ray: str | None, folder: Path) -> Crew:
    if workers == 1 and ray is None:
        return Crew(tables)
    work = folder.absolute() / WORK
    work.mkdir()
    if ray is not None:
        from unimixer.workers.ray_crew import RayCrew

        return RayCrew(tables, workers, work, ray)
    from unimixer.workers.processes import Processes

    return Processes(tables, workers, work)


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
