"""The results of an experiment on disk: rows, one JSON file each, scores on the test part, and tables of all rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Job
from unimixer.experiments.lr_search import Rates, chosen_rates
from unimixer.experiments.plan import Study
from unimixer.experiments.plan_file import read_plan
from unimixer.io import atomic_file, read_json, write_text
from unimixer.metrics.names import ON_DEMAND
from unimixer.training.evaluation import EVALUATION_BATCH, task_columns, user_keys
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder

OK, FAILED = "ok", "failed"
POINTS = "points.csv"
"""Name of the file with the points of a sweep."""
TRAINING_COST = 3
"""FLOPs of forward and backward over those of forward."""
SPLIT_COLUMNS = ("validation", "test")
METRICS = {
    "auc": "auc",
    "uauc": "uauc",
    "gauc": "gauc",
    "log_loss": "log_loss",
    "ne": "normalised_entropy",
    "calibration": "calibration",
    "users": "users_counted",
    "users_left_out": "users_left_out",
    "excess_log_loss": "excess_log_loss",
    "excess_log_loss_error": "excess_log_loss_error",
}
"""By column of a row: name of the metric in the result of a run. Metrics that were asked for keep their names."""

Row = dict[str, Any]


def row_path(folder: Path, key: str) -> Path:
    """Return the file of a row."""
    return folder / "rows" / f"{key}.json"


def write_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Write a row, which from then on counts as done or failed."""
    write_text(row_path(folder, str(row["key"])), json.dumps(dict(row), indent=1) + "\n")


def read_row(folder: Path, key: str) -> Row | None:
    """Read a row, or return None if there is none."""
    path = row_path(folder, key)
    if not path.exists():
        return None
    row: Row = read_json(path, way_out="remove the file, and the row is computed again")
    if "dataset_hash" not in row:
        raise UnimixerError(
            f"{path}: no column dataset_hash, as in earlier versions; compute the rows in another folder"
        )
    return row


def read_rows(folder: Path) -> list[Row]:
    """Read all rows, ordered by key."""
    rows = [read_row(folder, path.stem) for path in sorted((folder / "rows").glob("*.json"))]
    return [row for row in rows if row is not None]


def result_columns(result: Mapping[str, Any]) -> Row:
    """Flatten the metrics of a run into columns."""
    row: Row = {}
    reachable = (result.get("best_reachable_auc") or {}).get("test") or {}
    for split in SPLIT_COLUMNS:
        for task, metrics in result[split].items():
            known = {column: metrics.get(name) for column, name in METRICS.items()}
            excess = known["excess_log_loss"] is not None
            names = [column for column in known if excess or not column.startswith("excess")]
            asked = {name: value for name, value in metrics.items() if name.partition("@")[0] in ON_DEMAND}
            row |= {f"{split}_{task}_{column}": known[column] for column in names}
            row |= {f"{split}_{task}_{name}": value for name, value in asked.items()}
    return row | {f"best_reachable_{task}_auc": reachable.get(task) for task in result["test"]}


def load_rows(folder: Path | str) -> pl.DataFrame:
    """Load all rows of a study, failed ones too, in the order of the plan's models.

    The column ``phase`` is ``search`` for a rate that was not chosen (or while the choice is open), ``final`` for the
    chosen one, and ``both`` for the first seed's row at the chosen one, which belongs to the search and counts. Reports
    show the ``final`` and ``both`` rows with status ``ok``.

    Raises:
        UnimixerError: if the folder is not a study, or has no rows yet.
    """
    folder = Path(folder)
    study, rows = read_plan(folder, Study), read_rows(folder)
    if not rows:
        raise UnimixerError(f"{folder} has no rows yet; compute them with: unimixer compare {folder}")
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[case_of(row)].append(row)
    variants = {variant.label: variant for variant in study.models}
    for members in groups.values():
        label = members[0]["variant"]
        if label not in variants:
            raise UnimixerError(f"{folder}: rows of model {label!r}, which {study.file} lacks; write it there again")
        searched = any(row.get("mixing_lr") is not None for row in members)
        grid = study.grid(variants[label], mixing=searched)
        chosen = chosen_rates(members, grid, study.monitor)
        for row in members:
            at = Rates.of(row) == chosen
            first = row["seed"] == 0 and len(grid) > 1
            row["phase"] = ("both" if first else "final") if at else "search"
    labels = {label: number for number, label in enumerate(variants)}
    datasets = {dataset.hash: number for number, dataset in enumerate(study.data)}
    rows.sort(
        key=lambda row: (
            *(
                datasets.get(row["dataset_hash"], len(datasets)),
                labels[row["variant"]],
                row["budget_kind"],
            ),
            *(row["budget"], *(rate or 0 for rate in Rates.of(row)), row["seed"], row["key"]),
        )
    )
    names = dict.fromkeys(name for row in rows for name in row)
    leading = [name for name in LEADING if name in names]
    return _frame(rows, [*leading, *(name for name in names if name not in leading)])


LEADING = (
    *("key", "status", "error", "dataset", "dataset_hash", "variant", "group", "backbone", "options", "budget_kind"),
    *("budget", "dense_params", "table_params", "flops_per_sample", "seed"),
    *("dense_lr", "sparse_lr", "mixing_lr", "phase"),
    *("steps", "best_step", "stages", "samples", "seconds", "samples_per_second", "train_rows", "batch_size"),
    *("threads", "processes", "commit", "versions", "machine", "tasks"),
)
"""Columns before the metrics."""


def case_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values that the rows of one case share."""
    return tuple(row[name] for name in ("dataset_hash", "variant", "budget_kind", "budget"))


def write_tables(folder: Path) -> pl.DataFrame:
    """Write all rows as ``rows.parquet`` and ``rows.csv``."""
    frame = load_rows(folder)
    with atomic_file(folder / "rows.parquet") as path:
        frame.write_parquet(path)
    with atomic_file(folder / "rows.csv") as path:
        frame.write_csv(path)
    return frame


def scores_path(folder: Path, key: str) -> Path:
    """Return the file of the test logits of a row: float32 ``(n, tasks)``."""
    return folder / "scores" / f"{key}.npy"


def test_logits(run: RunFolder, dataset: Dataset) -> NDArray[np.float32]:
    """Compute the logits ``(n, tasks)`` of a run's best weights on the test part, in its order."""
    device, precision = pick_device(run.recipe.training.device), run.recipe.training.precision
    model = load_ranker(run, device=device)
    logits = []
    with torch.no_grad():
        for batch in Loader(dataset, "test", batch_size=EVALUATION_BATCH).batches():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits.append(model(batch.to(device)).float().cpu())
    return torch.cat(logits).numpy()


def write_array(path: Path, values: NDArray[np.generic]) -> None:
    """Write one array atomically."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def write_truth(folder: Path, dataset: Dataset, tasks: tuple[str, ...]) -> None:
    """Write the labels, users and true probabilities of the test part beside the scores, unless they exist.

    ``HASH-labels.npy`` is uint8 ``(n, tasks)``, or float32 where a task is soft; ``HASH-users.npy`` is int64 ``(n,)``
    with the keys by which UAUC groups; an impression without a user is a user of its own. ``HASH-truth.npy`` is float32
    ``(n, tasks)`` with NaN for a task whose truth is not known; it is there if one is known.
    """
    labels, users, truth = (folder / "scores" / f"{dataset.hash}-{name}.npy" for name in ("labels", "users", "truth"))
    schema = dataset.transform.schema
    known = [task in schema.truths for task in tasks]
    if labels.exists() and users.exists() and (truth.exists() or not any(known)):
        _check_labels(labels, dataset, tasks)
        return
    true_columns = task_columns(dataset, tuple(schema.truths.get(task, task) for task in tasks))
    unknown, truths = ~torch.tensor(known), []
    dtype = torch.float32 if set(tasks) & set(schema.soft_labels) else torch.uint8
    with_users = schema.keys.user is not None
    columns, label_columns, keys, count = task_columns(dataset, tasks), [], [], 0
    for batch in Loader(dataset, "test", batch_size=EVALUATION_BATCH).batches():
        assert batch.labels is not None
        assert batch.users is not None
        label_columns.append(batch.labels[:, columns].to(dtype))
        truths.append(batch.labels[:, true_columns].masked_fill(unknown, float("nan")))
        alone = -1 - torch.arange(count, count + len(batch))
        keys.append(user_keys(batch.users, count) if with_users else alone)
        count += len(batch)
    if any(known):
        write_array(truth, torch.cat(truths).numpy())
    write_array(users, torch.cat(keys).to(torch.int64).numpy())
    write_array(labels, torch.cat(label_columns).numpy())


def _check_labels(labels: Path, dataset: Dataset, tasks: tuple[str, ...]) -> None:
    expected, actual = (dataset.summary("test").rows, len(tasks)), np.load(labels, mmap_mode="r").shape
    if actual != expected:
        raise UnimixerError(f"{labels} has shape {actual}, expected {expected}: remove it, it is written again")


def write_points(
    folder: Path, jobs: Sequence[Job], latency: Mapping[tuple[str, str, int], float] | None = None
) -> pl.DataFrame:
    """Write ``points.csv``, one line per run that counts, and ``rows.csv`` with all rows, those of searches too.

    Args:
        folder: folder of the sweep.
        jobs: runs that count.
        latency: milliseconds of a request, by name of the dataset, label of the model and dense parameters.
    """
    points = []
    for job in jobs:
        row, case = read_row(folder, job.key), job.case
        if row is not None:
            points.append(_point(row, job, (latency or {}).get((case.dataset.name, case.variant, case.dense_params))))
    if not points:
        raise UnimixerError(
            f"{folder}: no run that counts is computed yet; compute them with: unimixer scale run --out {folder}"
        )
    rows, frame = read_rows(folder), pl.DataFrame(points, infer_schema_length=None)
    if frame["excess_log_loss"].null_count() == frame.height:
        frame = frame.drop("excess_log_loss")  # the truth is not known
    table = _frame(rows, list(dict.fromkeys(name for row in rows for name in row)))
    for name, content in ((POINTS, frame), ("rows.csv", table)):
        with atomic_file(folder / name) as path:
            content.write_csv(path)
    return frame


def _frame(rows: Sequence[Row], names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series(name, [row.get(name) for row in rows], strict=False) for name in names})


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
        "excess_log_loss": row.get(f"test_{task}_excess_log_loss") if done else None,
        "dataset": case.dataset.name,
        "status": row["status"],
        "blocks": case.blocks,
        "width": round(case.width, 2),
        "dense_lr": row["dense_lr"],
        "training_flops": TRAINING_COST * case.flops_per_sample,
        "seconds": row.get("seconds"),
        "samples_per_second": row.get("samples_per_second"),
        "key": row["key"],
    }
