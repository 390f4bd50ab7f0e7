"""Public code of others and ours by turns on one machine: ratios of one run, the only ones that say anything.

python -m benchmarks.peers CHECKOUT... --python PEERS_PYTHON --raw KUAIRAND_SAMPLE --dataset PREPARED --threads 2

A checkout is a work tree of Songcheng-Ren/UniRank, whose blocks are timed, or the folder FuxiCTR of
raoxuan98-hash/open_unimixer_skills, whose models are trained on the KuaiRand-Pure sample. The peers' Python has our
version of torch, polars below 1.20, pandas, pyarrow, scikit-learn, h5py, tqdm, PyYAML, keras_preprocessing, datasets.
Every measurement is a process of its own (``peer_worker.py``); rounds take turns. Rows go to results/peers.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import torch

from benchmarks.suite.results import FOLDER, describe_machine
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.errors import UnimixerError
from unimixer.io import write_text

WORKER = Path(__file__).with_name("peer_worker.py")
MODELS = ("unimixer-lite", "rankmixer")
PRECISIONS = ("float32", "bfloat16")
"""Of our training, beside the peer's float32; blocks of both programs run under the same autocast."""
SIZES = ((64, 4), (256, 2))
"""Widths of tokens and expansions."""
PEER_PARAMETERS = object()
"""Stands among the arguments of ours for the dense parameters of the peer, which are known when it has run."""
CATEGORIES = ["user_id", "video_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"]
CATEGORIES += [f"{kind}_user_num_range" for kind in ("follow", "fans", "friend")] + ["register_days_range"]
CATEGORIES += [f"onehot_feat{number}" for number in range(18)]
CATEGORIES += ["author_id", "video_type", "upload_type", "music_type", "tag", "tab", "hour", "weekday", "duration"]
CATEGORIES += ["upload_dt", "music_id"]


def write_tables(raw: Path, folder: Path, samples: int) -> None:
    """Write the first samples of the log, and the next 20,000 for validation, in the form that the peer reads."""
    log = pl.read_csv(next(raw.glob("log_standard_*.csv"))).sort("time_ms").head(samples + 20_000)
    users = pl.read_csv(raw / "user_features_pure.csv", infer_schema_length=None)
    items = pl.read_csv(raw / "video_features_basic_pure.csv", infer_schema_length=None)
    histories = pl.read_parquet(next(raw.glob("user_sequences_*.parquet"))).select("user_id", "watch_seq")
    joined = log.join(users, on="user_id", how="left").join(items, on="video_id", how="left")
    rows = joined.join(histories, on="user_id", how="left").with_columns(
        (pl.col("hourmin") // 100).alias("hour"),
        pl.col("date").cast(pl.String).str.to_date("%Y%m%d").dt.weekday().alias("weekday"),
        (pl.col("duration_ms") / 1000).log1p().mul(4).floor().cast(pl.Int64).alias("duration"),
        pl.col("watch_seq").list.tail(50).cast(pl.List(pl.String)).list.join("^").fill_null("").alias("history"),
        pl.col("is_click").alias("label"),
    )
    table = rows.select(*(pl.col(name).cast(pl.String).fill_null("NA") for name in CATEGORIES), "label", "history")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in {"train": table.head(samples), "valid": table.tail(-samples), "test": table.tail(512)}.items():
        part.write_csv(folder / f"{name}.csv")
    write_text(folder / "columns.json", json.dumps(CATEGORIES))


def measured(python: str, *arguments: object) -> dict[str, Any]:
    """The numbers of one worker."""
    command = [python, str(WORKER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=WORKER.parent)
    if done.returncode:
        raise UnimixerError(f"{' '.join(command)} failed: {done.stderr.strip()[-600:]}")
    numbers: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    return numbers


def turns(python: str, rounds: int, measure: str, peer: list[object], ours: list[object]) -> dict[str, Any]:
    """The medians of both programs, and the ratio with its quartiles over pairs."""
    pairs = []
    for _ in range(rounds):
        other = measured(python, *peer)
        own = (other["parameters"] if argument is PEER_PARAMETERS else argument for argument in ours)
        pairs.append((other, measured(sys.executable, *own)))
    ratios = sorted(own[measure] / other[measure] for other, own in pairs)
    sides = {
        f"{side} {name}": median(pair[index][key] for pair in pairs)
        for index, side in enumerate(("peer", "ours"))
        for name, key in (("value", measure), ("parameters", "parameters"))
    }
    quarter = (len(ratios) - 1) / 4
    low, high = ratios[math.floor(quarter)], ratios[math.ceil(3 * quarter)]
    return {"rounds": rounds, **sides, "ratio": median(ratios), "low": low, "high": high}


def commit_of(checkout: Path) -> str:
    """The commit of a work tree; 'unknown' for one that was exported without its history."""
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    inside = (checkout / ".git").exists() or (checkout.parent / ".git").exists()
    return done.stdout.strip() if inside and not done.returncode else "unknown"


def compared(checkout: Path, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """All comparisons with one peer, each as soon as it is measured."""
    peer = str(checkout.resolve())
    if (checkout / "model_zoo" / "UniMixer.py").is_file():
        for model, precision, (dim, expansion) in product(arguments.models, arguments.precisions, SIZES):
            tail = [model, dim, expansion, arguments.batch, precision, arguments.threads]
            case = f"{model} blocks, T=16 D={dim} expansion={expansion} batch={arguments.batch}{suffix(precision)}"
            pair = (["blocks", peer, *tail], ["blocks", "ours", *tail])
            ratios = turns(arguments.python, arguments.rounds, "share", *pair)
            yield {"peer": checkout.name, "case": case, "measure": "share of sgemm", **ratios}
    elif (checkout / "fuxictr").is_dir():
        if arguments.raw is None or arguments.dataset is None:
            raise UnimixerError(f"{checkout}: training needs --raw, the KuaiRand-Pure sample, and --dataset, prepared")
        write_tables(arguments.raw, folder / "tables", arguments.samples)
        for model, precision in product(arguments.models, arguments.precisions):
            tail = [arguments.samples, arguments.training_batch, precision, arguments.threads]
            case = f"{model}, KuaiRand-Pure, batch={arguments.training_batch}{suffix(precision)}"
            pair = (
                ["training", peer, model, folder / "tables", *tail, folder / f"peer-{model}"],
                [
                    "training",
                    "ours",
                    model,
                    arguments.dataset.resolve(),
                    *tail,
                    folder / f"ours-{model}",
                    PEER_PARAMETERS,
                ],
            )
            ratios = turns(arguments.python, arguments.rounds, "rate", *pair)
            yield {"peer": checkout.name, "case": case, "measure": "samples/s", **ratios}
    else:
        raise UnimixerError(f"{checkout} is none of the peers: it has neither model_zoo/UniMixer.py nor fuxictr/")


def suffix(precision: str) -> str:
    """What a case says of its precision."""
    return "" if precision == "float32" else f" {precision}"


def save(rows: list[dict[str, Any]]) -> None:
    """Add rows to those of other machines; the same comparison on the same machine is replaced."""
    path, keys = FOLDER / "peers.csv", ("peer", "case", "machine", "threads")
    old = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    merged = {tuple(str(row[key]) for key in keys): row for row in (*old, *rows)}
    lines = [list(rows[0]), *([row.get(key, "") for key in rows[0]] for row in merged.values())]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path, metavar="CHECKOUT")
    parser.add_argument("--python", default=sys.executable, help="of the peers")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--raw", type=Path, help="folder of the KuaiRand-Pure sample")
    parser.add_argument("--dataset", type=Path, help="the same sample, prepared")
    parser.add_argument("--batch", type=int, default=2048, help="of blocks")
    parser.add_argument("--training-batch", type=int, default=512, help="of a training run")
    parser.add_argument("--samples", type=int, default=40_960, help="of a training run")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    facts = asdict(describe_machine(torch.device("cpu")))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for checkout in arguments.checkouts:
            commits = {"threads": arguments.threads, "peer_commit": commit_of(checkout), **facts}
            folder = Path(temporary) / checkout.name
            for row in compared(checkout, arguments, folder):
                rows.append({**row, **commits})
                save(rows)
    heads = ["peer", "case", "measure", "peer value", "ours value", "ratio", "low", "high"]
    cells = [[row[key] if isinstance(row[key], str) else f"{row[key]:,.3g}" for key in heads] for row in rows]
    print(f"{facts['machine']}, {arguments.threads} threads, torch {facts['torch']}, {facts['date']}\n")
    print(markdown(heads, cells, left=3))


if __name__ == "__main__":
    script(main)
