"""Rows a second of the loader alone, and of training on the same dataset in the same process: one row of CSV each.

python benchmarks/loader_speed.py datasets/kuairand-pure kuairand-unimixer-lite
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from unimixer import train
from unimixer.cli import script
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.training.config import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [f"dataset={arguments.dataset}"])
    loader = Loader(
        Dataset(arguments.dataset),
        "train",
        batch_size=recipe.training.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
    )
    speeds = []
    for epoch in range(arguments.repeats):
        start = time.perf_counter()
        rows = sum(len(batch) for batch in loader.batches(epoch))
        speeds.append(rows / (time.perf_counter() - start))
    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, folder=Path(folder) / "run", quiet=True)
        training = (run.result or {})["samples_per_second"]
        waits = [line["data_wait"] for line in run.history() if line["kind"] == "train"]
    print("benchmark,batch_size,workers,threads,loader_rows_per_second,training_rows_per_second,ratio,data_wait")
    print(
        f"loader,{recipe.training.batch_size},{arguments.workers},{torch.get_num_threads()},{median(speeds):.0f},"
        f"{training:.0f},{median(speeds) / training:.1f},{median(waits):.4f}"
    )


if __name__ == "__main__":
    script(main)
