"""What a table with fewer rows than ids costs: AUC, hits and evictions of every policy, beside a row for every id.

    python benchmarks/managed_rows.py datasets/kuairand-pure --table video_id --rows 500 2000 --seeds 3

Mean ± standard deviation over seeds of the first task's AUC on the test part, as Markdown. Hits are lookups of the last
stretch of training that had a row of their own, evictions are all of the run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import unimixer
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.training.run import RunFolder
from unimixer.training.summary import spread

POLICIES = ("lfu", "lru", "distance_lfu")
COLUMNS = ("rows of the table", "policy", "AUC", "hits", "evictions")


def recipe(dataset: str, table: str, rows: int | None, policy: str, every: int, seed: int) -> dict[str, Any]:
    managed = {} if rows is None else {table: rows}
    eviction = {} if rows is None else {table: {"policy": policy, "eviction_interval": every}}
    return {
        "name": "managed",
        "dataset": dataset,
        "model": {"backbone": "unimixer-lite", "dense_params": "100K", "num_tokens": 8, "managed_embeddings": managed},
        "optimizer": {"eviction": eviction},
        "training": {"batch_size": 512, "seed": seed, "device": "cpu"},
    }


def facts(run: RunFolder, table: str) -> tuple[float, float, float]:
    """AUC, hits and evictions."""
    task = next(iter(run.recipe.tasks))
    lines = [line for line in run.history() if f"managed.{table}.hits" in line]
    hits = lines[-1][f"managed.{table}.hits"] if lines else 1.0
    return (run.result or {})["test"][task]["auc"], hits, sum(line[f"managed.{table}.evicted"] for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--table", default="video_id")
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--every", type=int, default=20, help="steps between two decisions")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    cases: list[tuple[int | None, str]] = [(None, "every id has a row")]
    cases += [(rows, policy) for rows in arguments.rows for policy in POLICIES]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (rows, policy) in enumerate(cases):
            runs = []
            for seed in range(arguments.seeds):
                values = recipe(arguments.dataset, arguments.table, rows, policy, arguments.every, seed)
                run = unimixer.train(values, folder=Path(folder) / f"{number}-{seed}", quiet=True)
                runs.append(facts(RunFolder(run.folder), arguments.table))
            auc, hits, evicted = (list(values) for values in zip(*runs, strict=True))
            mean = sum(evicted) / len(evicted)
            lines.append(["all" if rows is None else rows, policy, spread(auc), f"{hits[0]:.0%}", f"{mean:,.0f}"])
    print(markdown(COLUMNS, lines, left=2))


if __name__ == "__main__":
    script(main)
