"""The rows of a study on disk: one JSON file a row, written last, and all of them as one table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.errors import UnimixerError
from unimixer.experiments.lr_search import chosen_rates
from unimixer.experiments.study_config import PLAN, read_plan
from unimixer.io import atomic_file, read_json, write_text

OK, FAILED = "ok", "failed"
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
}
"""Column by column, the name of the metric in a run's result."""

Row = dict[str, Any]


def row_path(folder: Path, key: str) -> Path:
    """Where a row is."""
    return folder / "rows" / f"{key}.json"


def write_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Write a row; from then on it counts as done, or as failed."""
    write_text(row_path(folder, str(row["key"])), json.dumps(dict(row), indent=1) + "\n")


def read_row(folder: Path, key: str) -> Row | None:
    """A row, None where there is none."""
    path = row_path(folder, key)
    if not path.exists():
        return None
    return read_json(path, way_out="remove the file, and the row is computed again")


def read_rows(folder: Path) -> list[Row]:
    """All rows, by key."""
    found = [read_row(folder, path.stem) for path in sorted((folder / "rows").glob("*.json"))]
    return [row for row in found if row is not None]


def result_columns(result: Mapping[str, Any]) -> Row:
    """A run's metrics as flat columns."""
    row: Row = {}
    reachable = (result.get("best_reachable_auc") or {}).get("test") or {}
    for split in SPLIT_COLUMNS:
        for task, metrics in result[split].items():
            row |= {f"{split}_{task}_{column}": metrics[name] for column, name in METRICS.items()}
    return row | {f"best_reachable_{task}_auc": reachable.get(task) for task in result["test"]}


def load_rows(folder: Path | str) -> pl.DataFrame:
    """All rows of a study, failed ones too, one a line, ordered as the plan has its models.

    ``phase`` says what a row is for: ``search`` at a rate that was not chosen (or where the choice is still open),
    ``final`` at the chosen one, ``both`` for the first seed's row at the chosen one, which decided and counts. What is
    reported of a model are its ``final`` and ``both`` rows with status ``ok``.

    Raises:
        UnimixerError: if the folder is not a study, or has no rows yet.
    """
    folder = Path(folder)
    study, rows = read_plan(folder), read_rows(folder)
    if not rows:
        raise UnimixerError(f"{folder} has no rows yet; compute them with: unimixer compare {folder}")
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[case_of(row)].append(row)
    for members in groups.values():
        chosen = chosen_rates(members, study.grid, study.recipe.get("training.monitor"))
        for row in members:
            at = (row["dense_lr"], row["sparse_lr"]) == chosen
            first = row["seed"] == 0 and len(study.grid) > 1
            row["phase"] = ("both" if first else "final") if at else "search"
    labels = {variant.label: number for number, variant in enumerate(study.models)}
    stores = {store.hash: number for number, store in enumerate(study.data)}
    rows.sort(
        key=lambda row: (
            *(stores.get(row["store_hash"], len(stores)), labels.get(row["variant"], len(labels)), row["budget_kind"]),
            *(row["budget"], row["dense_lr"], row["sparse_lr"], row["seed"], row["key"]),
        )
    )
    names = dict.fromkeys(name for row in rows for name in row)
    leading = [name for name in LEADING if name in names]
    ordered = [*leading, *(name for name in names if name not in leading)]
    return pl.DataFrame({name: pl.Series(name, [row.get(name) for row in rows], strict=False) for name in ordered})


LEADING = (
    *("key", "status", "error", "store", "store_hash", "variant", "group", "backbone", "options", "budget_kind"),
    *("budget", "dense_params", "table_params", "flops_per_sample", "seed", "dense_lr", "sparse_lr", "phase"),
    *("steps", "best_step", "stages", "samples", "seconds", "samples_per_second", "train_rows", "batch_size"),
    *("threads", "processes", "commit", "versions", "machine", "tasks"),
)
"""Columns that stand before the metrics."""


def case_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rows of one case share."""
    return tuple(row[name] for name in ("store_hash", "variant", "budget_kind", "budget"))


def write_tables(folder: Path) -> pl.DataFrame:
    """Write all rows as ``rows.parquet`` and ``rows.csv``."""
    frame = load_rows(folder)
    with atomic_file(folder / "rows.parquet") as path:
        frame.write_parquet(path)
    with atomic_file(folder / "rows.csv") as path:
        frame.write_csv(path)
    return frame


def done_keys(folder: Path, keys: Iterable[str]) -> set[str]:
    """Keys whose rows are done; a failed row is to be tried again."""
    found = ((key, read_row(folder, key)) for key in keys)
    return {key for key, row in found if row is not None and row["status"] == OK}


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study."""
    return (folder / PLAN).exists()
