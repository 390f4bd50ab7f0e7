"""Your own Parquet log, from the file to scores: a first schema, a dataset, a run, metrics, predictions.

    python examples/own_log.py --log log.parquet --out mine

Without ``--log`` a small log is made. The first schema is a guess: read it, because an outcome must never be a feature.
On the command line the same steps are ``data init``, ``data prepare``, ``train``, ``evaluate`` and ``predict``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from unimixer import prepare, train
from unimixer.data.raw.infer import infer_schema


def made_log(path: Path, rows: int) -> Path:
    """Write a log in which every user likes some items more than others."""
    draw = np.random.default_rng(0)
    user, item, hour = draw.integers(0, 100, rows), draw.integers(0, 80, rows), draw.integers(0, 24, rows)
    taste, price = draw.normal(size=(100, 4)), np.round(draw.lognormal(3, 1, 80), 2)
    liking = (taste[user] * draw.normal(size=(80, 4))[item]).sum(1) + 0.1 * np.abs(hour - 12) - 1
    log = {
        "user_id": user,
        "item_id": item,
        "time_ms": np.sort(draw.integers(1_700_000_000_000, 1_700_600_000_000, rows)),
        "hour_shown": hour,
        "price": price[item],
        "click": (draw.random(rows) < 1 / (1 + np.exp(-liking))).astype(np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(log).write_parquet(path)
    return path


def main() -> None:
    """Take the log to scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="Parquet with one impression a row (default: make one)")
    parser.add_argument("--out", type=Path, default=Path("mine"))
    parser.add_argument("--rows", type=int, default=50_000, help="of the log that is made")
    parser.add_argument("--params", default="60K")
    parser.add_argument("--max-steps", type=int)
    arguments = parser.parse_args()
    out = arguments.out
    log = arguments.log or made_log(out / "log.parquet", arguments.rows)

    schema = out / "schema.yaml"
    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(infer_schema(log), encoding="utf-8")
    dataset = prepare(schema, out / "dataset", raw=log)
    recipe = {
        "name": "mine",
        "dataset": str(dataset.folder),
        "model": {"backbone": "rankmixer", "dense_params": arguments.params, "num_tokens": 4, "embedding_dim": 8},
        "optimizer": {"embedding_lr": 0.005},
        "training": {"batch_size": 256, "max_steps": arguments.max_steps},
    }
    run = train(recipe, folder=out / "run", quiet=True)
    for task, values in run.evaluate("test").items():
        print(f"{task}: AUC {values.auc:.4f} on {values.num_rows:,} rows")
    rows = pl.read_parquet(log).tail(100)
    pl.concat([rows, run.predict(rows).rename(lambda task: f"{task}_score")], how="horizontal").write_parquet(
        out / "scores.parquet"
    )
    print(f"wrote {out / 'scores.parquet'}")


if __name__ == "__main__":
    main()
