"""Peak memory of training and prediction against the number of rows: one row of CSV a case.

Every case runs in a process of its own, so that its peak is its own. Two things must not change with the rows: the
held-out parts, because exact AUC keeps every score that it measures, and the length of a history (``--history`` events,
which every user has), because a longer log of the same users means longer histories and so larger batches. Example:

    python benchmarks/memory.py --rows 1000000 10000000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT = 50_000


def prepare(rows: int, folder: Path, history: int) -> None:
    from unimixer.data.prepare import prepare as write
    from unimixer.data.raw.adapters import open_raw
    from unimixer.data.split_settings import QuantileSplit

    tables = open_raw("synthetic", None, rows=rows, users=50_000, items=20_000)
    split = QuantileSplit(validation=1 - 2 * HELD_OUT / rows, test=1 - HELD_OUT / rows)
    histories = tuple(h.model_copy(update={"max_length": history}) for h in tables.schema.histories)
    schema = tables.schema.model_copy(update={"split": split, "histories": histories})
    write(type(tables)(schema, tables.impressions, tables.users, tables.items, tables.num_rows), folder / "dataset")


def raw_file(rows: int, folder: Path, _history: int) -> None:
    import pyarrow.parquet as pq

    from unimixer.data.raw.adapters import open_raw

    writer = None
    for chunk in open_raw("synthetic", None, rows=rows, users=50_000, items=20_000).impressions():
        table = chunk.frame.to_arrow()
        writer = writer or pq.ParquetWriter(folder / "raw.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def train(_rows: int, folder: Path, _history: int) -> None:
    import unimixer

    recipe = {
        "name": "memory",
        "dataset": str(folder / "dataset"),
        "model": {"backbone": "mlp", "dense_params": "50K", "embedding_dim": 8, "tower_hidden_dims": []},
        "training": {"batch_size": 8192, "eval_interval": 10**9, "threads": 2},
    }
    unimixer.train(recipe, folder=folder / "run", quiet=True)


def predict(_rows: int, folder: Path, _history: int) -> None:
    from unimixer.data.raw.readers import read_chunks
    from unimixer.predictor import Predictor, write_predictions

    write_predictions(Predictor(folder / "run"), read_chunks([folder / "raw.parquet"]), folder / "scores.parquet")


STEPS = {"prepare": prepare, "raw_file": raw_file, "train": train, "predict": predict}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        STEPS[arguments.step](arguments.rows[0], arguments.folder, arguments.history)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    print("benchmark,step,rows,peak_mb,seconds,rows_per_second")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                command = [sys.executable, __file__, "--step", step, "--rows", str(rows), "--folder", folder]
                command += ["--history", str(arguments.history)]
                start = time.perf_counter()
                peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
                seconds = time.perf_counter() - start
                print(f"memory,{step},{rows},{peak},{seconds:.1f},{rows / seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
