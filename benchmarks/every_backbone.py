"""Every registered backbone for one epoch on one dataset, at one budget of dense parameters, as a table.

    python benchmarks/every_backbone.py datasets/kuairand-pure --params 1M --task is_click

A run that is finished is not trained again, so an interrupted study goes on where it stopped. Every model gets the
same features, batches and rates; none is tuned. Wall time is that of training without evaluations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unimixer import Run, train
from unimixer.backbones import BACKBONES
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.training.config import Recipe
from unimixer.training.train import resume


def finished(dataset: str, backbone: str, params: str, seed: int, folder: Path, batch_size: int) -> Run:
    """The finished run of one backbone, trained now if it has to be."""
    if (folder / "config.yaml").exists():
        return resume(folder)
    recipe = Recipe.model_validate(
        {
            "name": f"every-{backbone}",
            "dataset": dataset,
            "model": {"backbone": backbone, "dense_params": params},
            "training": {"seed": seed, "batch_size": batch_size, "eval_interval": 10**6},
        }
    )
    return train(recipe, folder=folder)


def row(backbone: str, run: Run, task: str) -> list[object]:
    """One line of the table."""
    result = run.result
    assert result is not None
    validation, test = result["validation"][task], result["test"][task]
    return [
        backbone,
        f"{result['dense_parameters']:,}",
        f"{result['seconds']:.0f}",
        f"{result['samples_per_second']:,.0f}",
        *(f"{part[metric]:.4f}" for part in (validation, test) for metric in ("auc", "uauc")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--params", default="1M")
    parser.add_argument("--task", required=True, help="the label whose metrics are printed; all are learned")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--models", default=",".join(BACKBONES))
    parser.add_argument("--out", type=Path, default=Path("runs/every-backbone"))
    arguments = parser.parse_args()
    rows = []
    for backbone in arguments.models.split(","):
        folder = arguments.out / f"{backbone}-{arguments.params}-seed{arguments.seed}"
        run = finished(arguments.dataset, backbone, arguments.params, arguments.seed, folder, arguments.batch_size)
        rows.append(row(backbone, run, arguments.task))
        print(*rows[-1], flush=True)
    columns = ["model", "dense parameters", "seconds", "samples/s"]
    columns += [f"{split} {metric}" for split in ("validation", "test") for metric in ("AUC", "UAUC")]
    print(markdown(columns, rows))


if __name__ == "__main__":
    script(main)
