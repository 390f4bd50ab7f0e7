"""The points of a sweep: a line a run that counts, from the rows of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.analysis.points import POINTS
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Case, Job
from unimixer.experiments.results import OK, read_row, read_rows
from unimixer.experiments.size_series import Ladder, width
from unimixer.experiments.sizes import depth_option
from unimixer.io import atomic_file

TRAINING = 3
"""FLOPs of forward and backward over those of forward."""


def write_points(
    folder: Path, ladders: Sequence[Ladder], latency: Mapping[tuple[str, int], float] | None = None
) -> pl.DataFrame:
    """Write ``points.csv``, a line a run that counts, and ``rows.csv`` with all rows, those of the search too.

    Args:
        folder: of the sweep.
        ladders: its models.
        latency: milliseconds of a request, by name of the model and dense parameters.
    """
    lines = []
    for ladder in ladders:
        ladder.take(folder)
        for job in ladder.jobs():
            row = read_row(folder, job.key)
            if row is not None:
                place = (ladder.name, job.case.dense_params)
                lines.append(_point(row, job, None if latency is None else latency.get(place)))
    if not lines:
        raise UnimixerError(f"{folder}: no run that counts is computed yet")
    frame = pl.DataFrame(lines, infer_schema_length=None)
    with atomic_file(folder / POINTS) as path:
        frame.write_csv(path)
    rows = read_rows(folder)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pl.DataFrame({name: pl.Series(name, [row.get(name) for row in rows], strict=False) for name in names})
    with atomic_file(folder / "rows.csv") as path:
        table.write_csv(path)
    return frame


def _point(row: Mapping[str, Any], job: Job, latency: float | None) -> dict[str, Any]:
    case, done = job.case, row["status"] == OK
    task = next(iter(case.recipe.tasks))
    auc = row.get(f"test_{task}_auc") if done else None
    return {
        "model": case.variant,
        "params": case.dense_params,
        "flops": case.flops_per_sample,
        "metric": auc,
        "seed": row["seed"],
        "rows": row.get("samples"),
        "latency_ms": latency,
        "auc": auc,
        "best_auc": row.get(f"best_reachable_{task}_auc"),
        "store": case.store.name,
        "status": row["status"],
        "blocks": blocks(case),
        "width": round(width(case), 2),
        "dense_lr": row["dense_lr"],
        "training_flops": TRAINING * case.flops_per_sample,
        "seconds": row.get("seconds"),
        "samples_per_second": row.get("samples_per_second"),
        "key": row["key"],
    }


def blocks(case: Case) -> int | None:
    """Blocks of a model, None where it has no such number."""
    name = depth_option(case.backbone)
    return None if name is None else int(case.arguments[name])
