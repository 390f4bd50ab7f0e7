"""The whole loop: RankMixer against UniMixing-Lite, trained on a synthetic world, served over HTTP, judged online.

python benchmarks/abtest_loop.py --out studies/abtest-loop

The script prepares the world, trains both models on its log, exports them, serves both by one server with an
experiment, lets 20,000 users visit for 30 days, and reads the experiment beside its true effect. On one free core it
takes about ten minutes. Killed, it keeps the dataset and the finished runs, and simulates again. It writes one row a
metric to benchmarks/results/abtest-loop.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import unimixer
from unimixer.cli import main as command
from unimixer.cli import script
from unimixer.environment import commit
from unimixer.io import atomic_file
from unimixer.training.run import RunFolder

RESULTS = Path(__file__).parent / "results" / "abtest-loop.csv"
MODELS = {"rankmixer": "rankmixer", "lite": "unimixer-lite"}
"""Backbones by arm; the first is the control."""
ACTIVITY = 0.04
"""Visits of the median user a day: a service that most users visit a few times a month."""


def train(out: Path, rows: int, users: int, params: str) -> dict[str, Path]:
    """Prepare the world and train what the folder lacks."""
    dataset = out / "dataset"
    if not dataset.exists():
        unimixer.prepare("synthetic", dataset, rows=rows, users=users)
    runs = {arm: out / f"run-{arm}" for arm in MODELS}
    for arm, folder in runs.items():
        if not (folder / "result.json").exists():
            recipe = {
                "name": arm,
                "dataset": str(dataset),
                "model": {"backbone": MODELS[arm], "dense_params": params, "num_tokens": 8},
                "optimizer": {"embedding_lr": 0.005},
                "training": {"batch_size": 256},
            }
            unimixer.train(recipe, folder=folder)
    return runs


def rows_of(result: dict[str, Any], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a metric: the arms offline, the true effect, and the effect that was read."""
    first, second = result["arms"]
    rows = []
    for effect in result["effects"]:
        read = effect["read"] or {}
        rows.append(
            {
                **facts,
                "control": MODELS[first["arm"]],
                "treatment": MODELS[second["arm"]],
                "auc_control": f"{first['auc']:.4f}",
                "auc_treatment": f"{second['auc']:.4f}",
                "uauc_control": f"{first['uauc']:.4f}",
                "uauc_treatment": f"{second['uauc']:.4f}",
                "metric": effect["metric"],
                "value_control": f"{effect['control_value']:.5f}",
                "true": f"{effect['difference']:.5f}",
                **{name: f"{read[name]:.5f}" if read else "" for name in ("difference", "low", "high", "p")},
                "covered": effect["covered"],
                "equal_lists": f"{result['agreement']:.5f}",
                "verdict": result["reading"]["verdict"]["decision"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000, help="impressions of the log")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--params", default="100K", help="dense parameters of both models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = train(arguments.out, arguments.rows, arguments.users, arguments.params)
    started = time.perf_counter()
    simulation = arguments.out / "simulation"
    settings = {
        "users": arguments.users,
        "days": arguments.days,
        "warmup_days": 7,
        "candidates": arguments.candidates,
        "behavior.activity": ACTIVITY,
        **{f"arms.{arm}": run.resolve() for arm, run in runs.items()},
    }
    words = [f"{name}={value}" for name, value in settings.items()]
    try:
        command(["abtest", "simulate", *words, "--http", "--out", str(simulation), "--overwrite"])
    except SystemExit as ended:
        if ended.code:
            raise
    result = json.loads((simulation / "result.json").read_text(encoding="utf-8"))
    requests = (simulation / "server.log").read_text(encoding="utf-8").count('"/v1/rank"')
    facts = {
        "commit": commit(),
        "users": arguments.users,
        "days": arguments.days,
        "candidates": arguments.candidates,
        "requests": requests,
        "training_s": round(sum(RunFolder(run).result["seconds"] for run in runs.values())),
        "simulation_s": round(time.perf_counter() - started),
    }
    rows = rows_of(result, facts)
    with atomic_file(arguments.results) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{arguments.results}: {len(rows)} rows")


if __name__ == "__main__":
    script(main)
