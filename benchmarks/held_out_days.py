"""Finished runs on validation and test days taken together: mean ± standard deviation over seeds, as Markdown.

python benchmarks/held_out_days.py runs
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from unimixer.api import evaluate
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.training.summary import finished_runs, spread

COLUMNS = ("recipe", "task", "seeds", "AUC", "UAUC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    metrics = defaultdict(list)
    for run in finished_runs(arguments.folders):
        for task, values in evaluate(run.folder, "validation+test").items():
            metrics[run.recipe.name, task].append(values)
    rows = []
    for (recipe, task), seeds in sorted(metrics.items()):
        uauc = [v.uauc for v in seeds if v.uauc is not None]
        rows.append([recipe, task, len(seeds), spread([v.auc for v in seeds]), spread(uauc)])
    print(markdown(COLUMNS, rows, left=2))


if __name__ == "__main__":
    script(main)
