"""What columns that no schema reads cost: processor time and peak memory of preparing one log with and without them.

Every case runs in a process of its own, so that its peak is its own. Example:

    python benchmarks/unused_columns.py --rows 100000 --columns 200
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCHEMA = """
name: unused
keys: {user: user_id, item: item_id, time: time_ms}
labels: [{name: click}]
features:
  - {name: user_id, kind: categorical, domain: user}
  - {name: item_id, kind: categorical, domain: item}
  - {name: price, kind: numeric, domain: context}
"""


def write(rows: int, columns: int, path: Path) -> None:
    import numpy as np
    import polars as pl

    draw = np.random.default_rng(0)
    log = {
        "user_id": draw.integers(0, 10_000, rows),
        "item_id": draw.integers(0, 5_000, rows),
        "time_ms": 1_700_000_000_000 + np.arange(rows),
        "price": draw.random(rows),
        "click": draw.integers(0, 2, rows),
    }
    pl.DataFrame(log | {f"unused_{i}": draw.random(rows) for i in range(columns)}).write_parquet(path)


def prepare(folder: Path, name: str) -> None:
    import unimixer

    started = time.process_time()
    unimixer.prepare(folder / "schema.yaml", folder / "store", raw=folder / name, overwrite=True)
    seconds = time.process_time() - started
    print(f"{seconds:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(Path(arguments.prepare[0]), arguments.prepare[1])
        return
    print("benchmark,rows,unused_columns,cpu_seconds,peak_mb")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schema.yaml").write_text(SCHEMA)
        logs = {0: "narrow.parquet", arguments.columns: "wide.parquet"}
        for columns, file in logs.items():
            write(arguments.rows, columns, folder / file)
        measured: dict[int, list[tuple[float, int]]] = {columns: [] for columns in logs}
        for _ in range(arguments.repeat):  # in turn, so that a busy moment meets both
            for columns, file in logs.items():
                command = [sys.executable, __file__, "--prepare", str(folder), file]
                done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                measured[columns].append((float(done[0]), int(done[1])))
        for columns, pairs in measured.items():
            seconds, peak = (min(values) for values in zip(*pairs, strict=True))
            print(f"unused_columns,{arguments.rows},{columns},{seconds:.3f},{peak}", flush=True)


if __name__ == "__main__":
    main()
