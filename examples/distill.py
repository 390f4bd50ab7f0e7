"""A small ranker that learns from the scores of a large one.

    python examples/distill.py --log log.parquet --schema schema.yaml --out distilled

Without a log and a schema a small log is made, as ``own_log.py`` makes it, and its schema is inferred. The scores of
the large ranker become a soft label of the log, and the small one mixes them into its target.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from own_log import made_log

from unimixer import prepare, train
from unimixer.data.raw.infer import infer_schema

TEACHER = "teacher"


def main() -> None:
    """Train the large ranker, score its log, train the small one with and without the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="Parquet with one impression a row (default: make one)")
    parser.add_argument("--schema", type=Path, help="its schema (default: infer one)")
    parser.add_argument("--out", type=Path, default=Path("distilled"))
    parser.add_argument("--rows", type=int, default=50_000, help="of the log that is made")
    parser.add_argument("--large", default="400K", help="parameters of the large ranker")
    parser.add_argument("--small", default="20K", help="parameters of the small ranker")
    parser.add_argument("--weight", type=float, default=0.5, help="of the scores in the target")
    parser.add_argument("--max-steps", type=int)
    arguments = parser.parse_args()
    out, given = arguments.out, arguments.log
    log = given or made_log(out / "log.parquet", arguments.rows)
    text = infer_schema(log) if arguments.schema is None else arguments.schema.read_text(encoding="utf-8")
    schema = yaml.safe_load(text)
    task = schema["labels"][0]["name"]

    def trained(name: str, dataset: Path, params: str, **more: Any) -> float:
        recipe = {
            "name": name,
            "dataset": str(dataset),
            "tasks": {task: 1.0},
            "model": {"backbone": "rankmixer", "dense_params": params, "num_tokens": 4, "embedding_dim": 8},
            "optimizer": {"embedding_lr": 0.005},
            "training": {"batch_size": 256, "max_steps": arguments.max_steps},
            **more,
        }
        run = train(recipe, folder=out / name, quiet=True)
        if name == TEACHER:
            rows = pl.read_parquet(log)
            rows.with_columns(run.predict(rows)[task].alias(TEACHER)).write_parquet(out / "scored.parquet")
        return run.evaluate("test")[task].auc

    out.mkdir(parents=True, exist_ok=True)
    (out / "schema.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    prepare(out / "schema.yaml", out / "log", raw=log)
    large = trained(TEACHER, out / "log", arguments.large)
    schema["labels"] = [*schema["labels"], {"name": TEACHER, "soft": True}]
    (out / "scored.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    prepare(out / "scored.yaml", out / "scored", raw=out / "scored.parquet")
    alone = trained("alone", out / "scored", arguments.small)
    soft = {task: {"label": TEACHER, "weight": arguments.weight}}
    taught = trained("taught", out / "scored", arguments.small, soft_labels=soft)
    print(f"AUC of {task}: large {large:.4f}, small alone {alone:.4f}, small taught {taught:.4f}")


if __name__ == "__main__":
    main()
