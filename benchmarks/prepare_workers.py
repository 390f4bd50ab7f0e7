"""Rows a second and peak memory of preparing one Parquet log with several numbers of workers: one row of CSV each.

The log is drawn first and is not timed. The dataset of every run must be the same. Example:

    python benchmarks/prepare_workers.py --rows 2000000 --workers 1 2
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import yaml

GROUP_ROWS = 131_072


def draw(rows: int, folder: Path) -> Path:
    """A log of row groups, with its tables and schema."""
    from unimixer.data.raw.adapters import open_raw

    tables = open_raw("synthetic", None, rows=rows, users=50_000, items=20_000)
    assert tables.users is not None
    assert tables.items is not None
    (folder / "raw").mkdir()
    writer = None
    for chunk in tables.impressions():
        table = chunk.frame.to_arrow()
        writer = writer or pq.ParquetWriter(folder / "raw" / "impressions.parquet", table.schema)
        writer.write_table(table, row_group_size=GROUP_ROWS)
    assert writer is not None
    writer.close()
    tables.users.frame.write_parquet(folder / "raw" / "users.parquet")
    tables.items.frame.write_parquet(folder / "raw" / "items.parquet")
    schema = tables.schema.model_dump(mode="json", exclude_none=True)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    return folder / "schema.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print("benchmark,workers,rows,seconds,rows_per_second,times_the_first,largest_process_mb,dataset")
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), 0.0
        schema = draw(arguments.rows, folder)
        for workers in arguments.workers:
            command = [sys.executable, "-m", "unimixer", "data", "prepare", str(schema), "--raw", str(folder / "raw")]
            command += ["--out", str(folder / f"dataset-{workers}"), "--workers", str(workers), "--json"]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rate = arguments.rows / done["seconds"]
            first = first or rate
            # of all processes so far that ended: the largest one, the workers among them
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
            values = (
                workers,
                arguments.rows,
                done["seconds"],
                f"{rate:.0f}",
                f"{rate / first:.2f}",
                peak,
                done["hash"],
            )
            print("prepare_workers", *values, sep=",", flush=True)


if __name__ == "__main__":
    main()
