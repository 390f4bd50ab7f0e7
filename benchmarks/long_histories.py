"""Memory and time of a training step on long histories, without a search and with a hard or a soft one.

Every case runs in a process of its own: a ``din`` on a batch whose users all have full histories of items with one of
100 categories. "batch" is what the loader hands over, "searched" what is left of it before the lookup, "kept" what
forward keeps for backward, "peak" the largest resident memory of the process above that before the step. Example:

    python benchmarks/long_histories.py --events 2000 10000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

ITEMS, CATEGORIES, TOP_K = 20_000, 100, 50
SEARCHES = {
    "none": None,
    "hard": {"past": {"kind": "hard", "field": "category", "top_k": TOP_K}},
    "soft": {"past": {"kind": "soft", "top_k": TOP_K}},
}
COLUMNS = "benchmark,search,events,rows,batch_mb,searched_mb,kept_mb,peak_mb,ms"


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
    before, start = peak(), time.perf_counter()
    kept = measure_memory(ranker, batch).activations / 2**20
    seconds, grown = time.perf_counter() - start, peak() - before
    searched = size(ranker.embedding.search(batch))
    numbers = f"{size(batch):.2f},{searched:.2f},{kept:.1f},{grown:.1f},{1000 * seconds:.0f}"
    return f"long_histories,{search},{events},{rows},{numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[2_000, 10_000])
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(case(arguments.case, arguments.events[0], arguments.rows))
        return
    print(COLUMNS)
    for events in arguments.events:
        for search in SEARCHES:
            command = [sys.executable, __file__, "--case", search, "--events", str(events)]
            command += ["--rows", str(arguments.rows)]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
