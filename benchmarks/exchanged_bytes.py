"""Bytes that two processes exchange a step, as the kernel counts them, beside those that follow from the recipe.

    python benchmarks/exchanged_bytes.py
    python benchmarks/exchanged_bytes.py --dataset datasets/kuairand-pure  # only the share of distinct rows

Two processes train a synthetic world in a network of their own, in which nothing else talks (`unshare`, util-linux, and
`ip`, iproute2), and the counter of its loopback is read before and after some steps. What the recipe says: a rank asks
for half of its distinct rows elsewhere, in float32, forward and backward, with an id of 8 bytes each; a gradient of the
dense parameters travels twice, by halves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from distributed import RECIPE, child_train, make_dataset, table, torchrun

INSIDE = "UNIMIXER_OWN_NETWORK"
FIRST, LAST = 8, 24
COLUMNS = [
    "rows a process",
    "lookups a row",
    "distinct of them",
    "dense parameters",
    "MB a step, counted",
    "MB a step, computed",
    "ratio",
]


def loopback() -> int:
    """Bytes that this network's loopback has carried."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise SystemExit("/proc/net/dev has no loopback")


def child(values: dict[str, Any], run: Path) -> None:
    """One rank: train, count bytes and lookups of some steps."""
    from unimixer.ranker import count_dense
    from unimixer.training import step as module
    from unimixer.training.distributed.layout import distinct_rows

    seen: dict[int, int] = {}
    lookups: list[int] = []
    distinct: list[int] = []
    dense = 0
    plain = module.TrainStep.__call__

    def counted(self: Any, group: Any, number: int) -> Any:
        nonlocal dense
        if number in (FIRST, LAST):
            self.processes.barrier()
            seen[number] = loopback()
            self.processes.barrier()  # nobody begins before all have read
        elif FIRST < number < LAST:
            lookups.append(
                sum(b.sparse_ids.numel() + sum(v.numel() for v in b.sequence_values.values()) for b in group)
            )
            columns = self.model.embedding.tables.layout.columns.values()
            distinct.append(sum(len(met) for c in columns for met in distinct_rows(c, group)[0].values()))
        dense = count_dense(self.model)
        return plain(self, group, number)

    module.TrainStep.__call__ = counted  # type: ignore[method-assign]
    child_train(values, run)
    said = {"bytes": seen[LAST] - seen[FIRST], "dense": dense}
    said |= {"lookups": sum(lookups) / len(lookups), "distinct": sum(distinct) / len(distinct)}
    os.write(1, (json.dumps(said) + "\n").encode())


def measure(folder: Path, rows: int, batch_sizes: list[int]) -> None:
    dataset, measured = make_dataset(folder, rows), []
    width = RECIPE["model"]["embedding_dim"]
    for size in batch_sizes:
        training = {**RECIPE["training"], "batch_size": 2 * size, "max_steps": LAST + 1, "eval_interval": LAST + 1}
        distributed = {"data_shards": 2, "sharding": "row_wise"}
        values = {**RECIPE, "dataset": str(dataset), "training": training, "distributed": distributed}
        lines = torchrun(2, "child", json.dumps(values), str(folder / f"run-{size}"), script=__file__).splitlines()
        said = [json.loads(line) for line in lines]
        counted = said[0]["bytes"] / (LAST - FIRST)
        both, met = (sum(rank[name] for rank in said) for name in ("lookups", "distinct"))
        computed = met / 2 * (2 * width * 4 + 8) + 2 * said[0]["dense"] * 4
        row = [
            size,
            f"{both / 2 / size:.0f}",
            f"{met / both:.0%}",
            f"{said[0]['dense']:,}",
            f"{counted / 1e6:.2f}",
            f"{computed / 1e6:.2f}",
        ]
        measured.append([*row, f"{counted / computed:.2f}"])
    table(COLUMNS, measured)


def share(folder: Path, batch_sizes: list[int]) -> None:
    """Print the share of distinct rows among the lookups of a batch."""
    from unimixer.data.dataset import open_dataset
    from unimixer.data.loader import Loader
    from unimixer.training.distributed.layout import columns_of, distinct_rows

    dataset = open_dataset(folder)
    columns = columns_of(dataset.transform.spec)
    rows = []
    for size in batch_sizes:
        batches = itertools.islice(Loader(dataset, "train", batch_size=size, shuffle=True), 20)
        counts = [
            (sum(len(c.ids(batch)) for c in columns), sum(map(len, distinct_rows(columns, [batch])[0].values())))
            for batch in batches
        ]
        lookups, met = (sum(column) for column in zip(*counts, strict=True))
        rows.append([size, f"{lookups / len(counts) / size:.0f}", f"{met / lookups:.0%}"])
    table(COLUMNS[:3], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("child", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child[1]), Path(arguments.child[2]))
    elif arguments.dataset is not None:
        share(arguments.dataset, arguments.batch_sizes)
    elif INSIDE not in os.environ:
        if not (shutil.which("unshare") and shutil.which("ip")):
            raise SystemExit("needs unshare (util-linux) and ip (iproute2), so that nothing else is counted")
        command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, *sys.argv]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), arguments.rows, arguments.batch_sizes)


if __name__ == "__main__":
    main()
