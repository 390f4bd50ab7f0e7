"""Logs of days for the calendar of ``examples/daily``: every day brings new users and items.

    python benchmarks/daily_world.py --rows 200000 --users 100000 --items 20000 DAY FILE

Every day has 2% more users and items than the first one had, times the number of days since. A day is the same in every
call.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from unimixer.cli import main as command
from unimixer.cli import script

FIRST = date(2026, 1, 1)
START_MS, DAY_MS = 1_767_225_600_000, 86_400_000
GROWTH = 0.02
TASTES = 64
SCHEMA = """
name: daily
keys: {user: user_id, item: item_id, time: time_ms, time_format: ms, timezone: UTC}
labels: [{name: click}]
split: {by: quantile, validation: 0.9, test: 0.95}
histories:
  - {name: clicked, event: click, max_length: 10}
features:
  - {name: user_id, kind: categorical, domain: user}
  - {name: item_id, kind: categorical, domain: item}
  - {name: device, kind: categorical, domain: context}
  - {name: price, kind: numeric, domain: context, transform: log_standardise}
  - {name: past_items, kind: sequence, domain: behaviour, history: clicked, source: item_id, table: item_id}
"""
RECIPE = """
name: daily
dataset: data
model:
  {backbone: unimixer-lite, width: 8, num_tokens: 2, embedding_dim: 16, tower_hidden_dims: [8],
   options: {num_blocks: 1, matrices: blocks, rank: 4, block_size: 2}}
training: {batch_size: 256, eval_interval: 400, threads: 1, num_workers: 0, device: cpu}
"""
BOUNDS = {
    "tasks": {"click": {"auc": [0.3, 1.0], "calibration": [0.3, 3.0]}},
    "unknown": {"user_id": [0.0, 0.9], "item_id": [0.0, 0.5]},
}


def log_of(day: int, rows: int, users: int, items: int) -> pl.DataFrame:
    """The impressions of a day."""
    rng = np.random.default_rng(day)
    user = rng.integers(0, round(users * (1 + GROWTH * day)), rows)
    item = (rng.random(rows) ** 2 * round(items * (1 + GROWTH * day))).astype(np.int64)
    taste = np.random.default_rng(1_000_003).normal(size=(TASTES, TASTES))
    price = np.round(rng.lognormal(3, 1, rows), 2)
    logit = taste[user % TASTES, item % TASTES] - 0.2 * np.log(price)
    return pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "time_ms": START_MS + day * DAY_MS + np.sort(rng.integers(0, DAY_MS, rows)),
            "device": rng.choice(["ios", "android"], rows),
            "price": price,
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        }
    )


def call(*arguments: object) -> None:
    """Run a command of unimixer in this process."""
    try:
        command([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code:
            raise


def begin(place: Path, *, rows: int, users: int, items: int, unimixer: str = "", reload: str = "") -> None:
    """Make the folder of a calendar with its first day in service."""
    for name in ("raw", "runs", "bundles"):
        (place / name).mkdir(parents=True)
    size = f"--rows {rows} --users {users} --items {items}"
    settings = {
        "UNIMIXER": unimixer or f"{sys.executable} -m unimixer",
        "PYTHON": sys.executable,
        "RECIPE": "recipe.yaml",
        "FETCH": f"{sys.executable} {Path(__file__).resolve()} {size}",
        "STORE": "features.sqlite",
        "RELOAD": reload,
    }
    (place / "settings.sh").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    (place / "schema.yaml").write_text(SCHEMA)
    (place / "recipe.yaml").write_text(RECIPE)
    (place / "bounds.json").write_text(json.dumps(BOUNDS))
    raw = place / "raw" / f"{FIRST}.parquet"
    log_of(0, rows, users, items).write_parquet(raw)
    run, bundle, data = place / "runs" / str(FIRST), place / "bundles" / str(FIRST), place / "data"
    call("data", "prepare", place / "schema.yaml", "--raw", raw, "--out", data)
    call("train", place / "recipe.yaml", "--data", data, "--run", run)
    call("export", run, "--data", data, "--out", bundle)
    call("store", "build", run, "--raw", place / "raw", "--other-data", "--out", place / "features.sqlite")
    (place / "current").symlink_to(Path("bundles") / str(FIRST))
    (place / "shipped").write_text(f"{FIRST}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("day", type=date.fromisoformat)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    number = (arguments.day - FIRST).days
    log_of(number, arguments.rows, arguments.users, arguments.items).write_parquet(arguments.file)


if __name__ == "__main__":
    script(main)
