"""AUC against the number of training rows: what a log limits, whatever the model.

python benchmarks/learning_curve.py datasets/kuairand-pure --out studies/learning-curve

A run on a share of the data takes the first steps of the seeded shuffle of all training days, once, with everything
else as in a whole run. Finished runs are kept in --out and not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from unimixer import Run, train
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.data.dataset import open_dataset
from unimixer.experiments.models import Variant, parse_variant, split_models
from unimixer.io import atomic_file
from unimixer.progress import progress_bar
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.summary import spread

BATCH = 512


def recipe_of(variant: Variant, dataset: Path, arguments: argparse.Namespace, steps: int, seed: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "learning-curve",
        "dataset": str(dataset),
        "tasks": {arguments.task: 1.0},
        "model": {"backbone": variant.backbone, "dense_params": arguments.params, "options": variant.options},
        "optimizer": {"dense_lr": arguments.lr},
        "training": {"batch_size": BATCH, "max_steps": steps, "eval_interval": steps, "seed": seed},
    }
    values["training"]["threads"] = arguments.threads
    for key, value in variant.recipe.items():
        section, name = key.split(".")
        values[section][name] = value
    parse(Recipe, values, where=variant.label)
    return values


def draw(curves: dict[str, list[tuple[int, float, float, float]]], path: Path, task: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for label, points in curves.items():
        rows, means, low, high = zip(*points, strict=True)
        axis.plot(rows, means, marker="o", label=label)
        axis.fill_between(rows, low, high, alpha=0.15)
    axis.set(xscale="log", xlabel="training rows", ylabel=f"validation AUC of {task}")
    axis.grid(alpha=0.3)
    axis.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--models", default="rankmixer,unimixer-lite,rankmixer:model.sequence_encoder=target_attention")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0625, 0.125, 0.25, 0.5, 1.0])
    parser.add_argument("--params", default="500K")
    parser.add_argument("--task", default="is_click")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.dataset)
    variants = [Variant(**parse_variant(text)) for text in split_models(arguments.models)]
    whole = -(-dataset.summary("train").rows // BATCH)
    lines, curves = [], {}
    with progress_bar("runs", len(variants) * len(arguments.shares) * arguments.seeds, unit="runs") as advance:
        for number, variant in enumerate(variants):
            points = []
            for share in arguments.shares:
                steps = max(1, round(whole * share))
                by_split: dict[str, list[float]] = {"validation": [], "test": []}
                for seed in range(arguments.seeds):
                    folder = arguments.out / f"{number}-{variant.backbone}-{steps}-seed{seed}"
                    run = Run(folder) if (folder / "config.yaml").exists() else None
                    if run is None or run.result is None:
                        values = recipe_of(variant, dataset.folder, arguments, steps, seed)
                        run = train(values, folder=folder, quiet=True)
                    assert run.result is not None
                    for split, values in by_split.items():
                        values.append(run.result[split][arguments.task]["auc"])
                    advance(1)
                rows = min(steps * BATCH, dataset.summary("train").rows)
                aucs = by_split["validation"]
                points.append((rows, fmean(aucs), min(aucs), max(aucs)))
                lines.append([variant.label, f"{rows:,}", *(spread(values) for values in by_split.values())])
            curves[variant.label] = points
    print(markdown(("model", "training rows", "validation AUC", "test AUC"), lines, left=1))
    draw(curves, arguments.out / "learning_curve.png", arguments.task)


if __name__ == "__main__":
    script(main)
