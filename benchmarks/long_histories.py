"""Memory and time of a training step on long histories, without a search and with a hard or a soft one.

Every case runs in a process of its own: a ``din`` on a batch whose users all have full histories of items with one of
100 categories. "batch" is what the loader hands over, "searched" what is left of it before the lookup, "kept" what
forward keeps for backward, "peak" the largest resident memory of the process above that before the step, "cpu" the
median processor time of a step on one thread. Example:

    python benchmarks/long_histories.py --events 1000 10000 --record
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from unimixer.cli import script
from unimixer.io import write_text

RESULTS = Path(__file__).parent / "results" / "long-histories.csv"
ITEMS, CATEGORIES, TOP_K, STEPS = 20_000, 100, 50, 3
SEARCHES = {
    "none": None,
    "hard": {"past": {"kind": "hard", "field": "category", "top_k": TOP_K}},
    "soft": {"past": {"kind": "soft", "top_k": TOP_K}},
}
COLUMNS = "search,events,rows,batch_mb,searched_mb,kept_mb,peak_mb,cpu_ms"


def case(search: str, events: int, rows: int) -> str:
    """Measure one case; return its row."""
    import torch

    from unimixer.features.batch import Batch
    from unimixer.features.spec import FeatureSpec, IdField, SequenceField
    from unimixer.profiling.memory import measure_memory
    from unimixer.ranker import Ranker

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def size(batch: Batch) -> float:
        return sum(tensor.nbytes for tensor in batch.inputs().values()) / 2**20

    def seconds() -> float:
        start = time.process_time()
        measure_memory(ranker, batch)
        return time.process_time() - start

    torch.manual_seed(0)
    torch.set_num_threads(1)
    spec = FeatureSpec(
        ids=(IdField("item", "item", "item"), IdField("category", "item", "category")),
        dense=(),
        sequences=(
            SequenceField("items", "behaviour", "item", "past", events, "item"),
            SequenceField("categories", "behaviour", "category", "past", events, "category"),
        ),
        tables={"item": ITEMS, "category": CATEGORIES},
        labels=("click",),
    )
    options = {
        "backbone": "mlp",
        "tokenizer": "chunk",
        "num_tokens": 4,
        "options": {"hidden_dims": (32,), "token_dim": 16},
    }
    ranker = Ranker(spec, sequence_encoder="din", sequence_search=SEARCHES[search], **options)
    items = torch.randint(0, ITEMS, (rows * (events + 1), 1), dtype=torch.int32)
    both = torch.cat([items, items % CATEGORIES], dim=1)
    ends = torch.arange(rows + 1) * events
    batch = Batch(both[:rows], torch.zeros(rows, 0), {"past": both[rows:]}, {"past": ends})
    measure_memory(ranker, batch.part(0, 1))  # what the first step of a process takes once
    before = peak()
    kept = measure_memory(ranker, batch).activations / 2**20
    grown = peak() - before
    searched = size(ranker.embedding.search(batch))
    milliseconds = 1000 * statistics.median(seconds() for _ in range(STEPS))
    numbers = f"{size(batch):.2f},{searched:.2f},{kept:.1f},{grown:.1f},{milliseconds:.0f}"
    return f"{search},{events},{rows},{numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000, 3_000, 10_000])
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/long-histories.csv")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(case(arguments.case, arguments.events[0], arguments.rows))
        return
    lines = [COLUMNS]
    print(COLUMNS)
    for events in arguments.events:
        for search in SEARCHES:
            command = [sys.executable, __file__, "--case", search, "--events", str(events)]
            command += ["--rows", str(arguments.rows)]
            lines.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
            print(lines[-1], flush=True)
    if arguments.record:
        write_text(RESULTS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    script(main)
