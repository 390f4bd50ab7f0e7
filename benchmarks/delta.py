"""Size, time and peak memory of an export, of a delta and of its application, against the size of the tables.

A run with two hashed tables goes on for as many steps as touch ``--share`` of their rows. Every command runs in a
process of its own, so that its peak is its own; the peak of a model with tiny tables is the process itself. Example:

    python benchmarks/delta.py --buckets 1000000 4000000 --out benchmarks/results/delta.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

BATCH = 256
TINY = 1_000
SCHEMA = """
name: hashed
keys: {{user: user_id, item: item_id, time: time_ms, time_format: ms, timezone: UTC}}
labels: [{{name: click}}]
split: {{by: quantile, validation: 0.9, test: 0.95}}
features:
  - {{name: user_id, kind: categorical, domain: user, vocabulary: {{policy: hash, num_buckets: {0}}}}}
  - {{name: item_id, kind: categorical, domain: item, vocabulary: {{policy: hash, num_buckets: {0}}}}}
  - {{name: price, kind: numeric, domain: context, transform: log_standardise}}
"""
RECIPE = """
name: hashed
dataset: {folder}/data
model: {{backbone: unimixer-lite, dense_params: 100K, num_tokens: 4}}
training: {{batch_size: {batch}, device: cpu, threads: 1}}
"""


def write_log(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    pl.DataFrame(
        {
            "user_id": rng.integers(1, 10**9, rows),
            "item_id": rng.integers(1, 10**9, rows),
            "time_ms": np.sort(rng.integers(1_700_000_000_000, 1_700_600_000_000, rows)),
            "price": np.round(rng.lognormal(3, 1, rows), 2),
            "click": rng.integers(0, 2, rows),
        }
    ).write_parquet(path)


def call(*arguments: object) -> tuple[float, float]:
    """Run a command of unimixer; returns seconds and the peak of its memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "unimixer", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"unimixer {' '.join(map(str, arguments))}: failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(folder: Path, buckets: int, share: float) -> dict[str, object]:
    folder.mkdir()
    steps = max(1, round(share * 2 * buckets / (2 * BATCH)))
    write_log(folder / "log.parquet", round((steps + 1) * BATCH / 0.9))
    (folder / "schema.yaml").write_text(SCHEMA.format(buckets))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, batch=BATCH))
    call("data", "prepare", folder / "schema.yaml", "--raw", folder / "log.parquet", "--out", folder / "data")
    call("train", folder / "recipe.yaml", "--run", folder / "first", "training.max_steps=1")
    steps_of = f"training.max_steps={steps}", f"training.eval_interval={steps}"
    call("train", folder / "recipe.yaml", "--run", folder / "next", "--warm-start", folder / "first", *steps_of)
    call("export", folder / "first", "--out", folder / "base")
    whole = call("export", folder / "next", "--out", folder / "whole")
    delta = call("export", folder / "next", "--delta", folder / "base", "--out", folder / "delta")
    applied = call("bundle", "apply", folder / "base", folder / "delta", "--out", folder / "made")
    equal = (folder / "made" / "manifest.json").read_bytes() == (folder / "whole" / "manifest.json").read_bytes()
    assert equal, "base and delta differ from the whole export"
    bundle, size = megabytes(folder / "whole"), megabytes(folder / "delta")
    return {
        "tables_mb": round(2 * buckets * 16 * 4 / 1e6, 1),
        "changed_rows": share,
        "bundle_mb": round(bundle, 2),
        "delta_mb": round(size, 2),
        "delta_share": round(size / bundle, 4),
        **{f"{name}_s": round(one[0], 1) for name, one in (("export", whole), ("delta", delta), ("apply", applied))},
        **{f"{name}_peak_mb": round(one[1]) for name, one in (("export", whole), ("delta", delta), ("apply", applied))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buckets", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for buckets in (TINY, *arguments.buckets):
            rows.append(measure(Path(place) / str(buckets), buckets, arguments.share))
            print(rows[-1], flush=True)
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
