"""What reaches the raw parameters of learned mixings, and how far they go, by options, temperatures and rates.

python benchmarks/gradient_flow.py --store datasets/kuairand-pure --steps 100
python benchmarks/gradient_flow.py --store datasets/kuairand-pure --models unimixer --options "init: random, gate: 0.05"

For every combination a fresh model takes some steps on the dataset. Printed are, for the matrices between blocks and
those inside them: the root mean square of the raw parameters' gradient in the first batches (Adam's eps is 1e-8: below
it a step shrinks), the mean of the largest entry of a row at start and end (1 is a permutation, 1/N is flat), and how
far the constrained matrices moved (half the sum of absolute differences of a row: 0 nothing, 1 all of it).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml

from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.data.dataset import Dataset, open_dataset
from unimixer.data.loader import Loader
from unimixer.mixing import Constrained
from unimixer.mixing.global_patterns import Global
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, resolve, with_tasks
from unimixer.training.step import TrainStep

FIRST = 10
"""Batches over which gradients are taken."""


def parts(model: Ranker) -> dict[str, list[Constrained]]:
    matrices = [part for part in model.modules() if isinstance(part, Constrained)]
    return {
        "between": [part for part in matrices if isinstance(part, Global)],
        "inside": [part for part in matrices if not isinstance(part, Global)],
    }


def matrices(group: list[Constrained]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [part.matrices().detach().clone() for part in group]


def sharpness(matrices: list[torch.Tensor]) -> float:
    return fmean(matrix.amax(-1).mean().item() for matrix in matrices)


def moved(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    return fmean(((a - b).abs().sum(-1) / 2).mean().item() for a, b in zip(before, after, strict=True))


def gradient(group: list[Constrained]) -> float:
    values = [p.grad.flatten() for part in group for p in part.parameters(recurse=False) if p.grad is not None]
    return torch.cat(values).square().mean().sqrt().item()


def measured(dataset: Dataset, model_name: str, options: str, tau: float, rate: float | None, steps: int) -> list[Any]:
    values = {
        "name": "gradients",
        "dataset": str(dataset.folder),
        "model": {"backbone": model_name, "dense_params": "800K", "options": yaml.safe_load(f"{{{options}}}")},
        "temperature": {"end": tau},
        "optimizer": {"mixing_lr": rate},
        "training": {"batch_size": 512},
    }
    recipe = resolve(parse(Recipe, values, where="benchmark"), dataset.transform.spec)
    torch.manual_seed(0)
    model = build_ranker(recipe.model, with_tasks(dataset.transform.spec, tuple(recipe.tasks))).train()
    columns = torch.arange(len(recipe.tasks))
    step = TrainStep(model, recipe, columns, total_steps=steps, checkpoints=Path("none"))
    batches = itertools.islice(Loader(dataset, "train", batch_size=512, shuffle=True).batches(), steps)
    groups, before = parts(model), {}
    gradients: dict[str, list[float]] = {name: [] for name in groups}
    for number, batch in enumerate(batches):
        step([batch], number)
        if number == 0:  # the temperature of the schedule is set by now; one step has hardly moved anything
            before = {name: matrices(group) for name, group in groups.items()}
        if number < FIRST:
            for name, group in groups.items():
                gradients[name].append(gradient(group))
    row: list[Any] = [model_name, options, f"{tau:g}", "as others" if rate is None else f"{rate:g}"]
    for name, group in groups.items():
        after = matrices(group)
        row += [f"{fmean(gradients[name]):.0e}", f"{sharpness(before[name]):.4f}", f"{sharpness(after):.4f}"]
        row += [f"{moved(before[name], after):.4f}"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="kuairand-pure")
    parser.add_argument("--models", nargs="+", default=["unimixer-lite", "unimixer"])
    parser.add_argument(
        "--options",
        nargs="+",
        default=["matrices: blocks, init: rule", "matrices: blocks, init: random"],
        help="of the backbone, YAML",
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.3, 0.1, 0.05])
    parser.add_argument("--rates", type=float, nargs="*", default=[0.02, 0.1], help="of mixings, beside Adam's for all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = open_dataset(arguments.dataset)
    cases = list(
        itertools.product(arguments.models, arguments.options, arguments.temperatures, [None, *arguments.rates])
    )
    rows = []
    with progress_bar("combinations", len(cases), unit="cases") as advance:
        for case in cases:
            rows.append(measured(dataset, *case, arguments.steps))
            advance(1)
    heads = ["model", "options", "tau", "rate"]
    for name in ("between", "inside"):
        heads += [f"{name}: gradient", "largest entry, start", "end", "moved"]
    print(markdown(heads, rows, left=2))


if __name__ == "__main__":
    script(main)
