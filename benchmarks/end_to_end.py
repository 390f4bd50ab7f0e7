"""Training from a dataset, as users start it: samples/s beside the machine's own rate, and where a step's time goes.

python benchmarks/end_to_end.py --dataset datasets/kuairand-pure --threads 2 --picture docs/step_time.png

Every combination trains a fresh run through the real loop: loader, checks and running AUC are in the time, the
validation at its end is not. Rounds take turns over the combinations, each between two measurements of the float32
product, so that the ratio to it stands where the machine is slow for a while. Then the parts of a step are timed alone,
one after the other, on batches of the same dataset.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from unimixer.cli import script
from unimixer.cli.doctor import matmul_rate
from unimixer.cli.output import markdown
from unimixer.data.dataset import Dataset, open_dataset
from unimixer.data.loader import Loader
from unimixer.environment import cpu_model
from unimixer.features.batch import Batch
from unimixer.ranker import Ranker, count_dense
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, resolve, with_tasks
from unimixer.training.optimizers import build_optimizers
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep
from unimixer.training.train import train

PARTS = ("tables and fields", "backbone, tokenizer, towers", "loss, checks, schedules", "optimizers")
SIDE = ("tables and fields", "loss, checks, schedules", "optimizers")
"""What is not the model's own arithmetic."""


def recipe_of(dataset: Dataset, model: str, batch: int, arguments: argparse.Namespace) -> Recipe:
    training = {
        "batch_size": batch,
        "precision": arguments.precision,
        "compile": arguments.compile,
        "threads": arguments.threads,
        "max_steps": max(8, arguments.samples // batch),
        "eval_interval": 10**9,
    }
    values = {
        "name": "end-to-end",
        "dataset": str(dataset.folder),
        "model": {"backbone": model, "dense_params": arguments.params},
        "training": training,
    }
    return resolve(parse(Recipe, values, where="benchmark"), dataset.transform.spec)


def trained(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The result of a run, with the share of time it waited for data."""
    run: RunFolder = train(recipe, folder=folder, quiet=True)
    waits = [row["data_wait"] for row in run.history() if "data_wait" in row]
    assert run.result is not None
    return {**run.result, "data_wait": waits[-1]}


def milliseconds(run: Callable[[], object], repeats: int = 9) -> float:
    run(), run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times) * 1e3


def parts(dataset: Dataset, recipe: Recipe) -> dict[str, float]:
    """Milliseconds of the parts of one step."""
    spec = with_tasks(dataset.transform.spec, tuple(recipe.tasks))
    torch.manual_seed(0)
    model = build_ranker(recipe.model, spec).train()
    loader = Loader(dataset, "train", batch_size=recipe.training.batch_size, shuffle=True, num_workers=0)
    batch = next(iter(loader.batches()))
    columns = torch.arange(len(recipe.tasks))
    step = TrainStep(model, recipe, columns, total_steps=10**6, checkpoints=Path("none"))
    whole = milliseconds(lambda: step([batch], 0))
    tables = milliseconds(embedding(model, batch))
    backbone = milliseconds(dense(model, batch))
    optimizers = build_optimizers(model, recipe.optimizer)
    step([batch], 0)  # leaves gradients
    update = milliseconds(lambda: [optimizer.step() for optimizer in optimizers.values()])
    rest = max(0.0, whole - tables - backbone - update)
    endless = itertools.chain.from_iterable(loader.batches(epoch) for epoch in itertools.count())
    load = milliseconds(lambda: next(endless))
    return dict(zip(PARTS, (tables, backbone, rest, update), strict=True)) | {"loader (own thread)": load}


def embedding(model: Ranker, batch: Batch) -> Callable[[], object]:
    upstream = torch.randn_like(model.embed(batch)[0])

    def run() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(model.embed(batch)[0], upstream)

    return run


def dense(model: Ranker, batch: Batch) -> Callable[[], object]:
    with torch.no_grad():
        embedded = [part.clone() for part in model.embed(batch)]
    embedded[0].requires_grad_()
    assert batch.labels is not None
    labels = batch.labels[:, : model.score(*embedded).shape[1]]

    def run() -> None:
        model.zero_grad(set_to_none=True)
        embedded[0].grad = None
        torch.autograd.backward(F.binary_cross_entropy_with_logits(model.score(*embedded), labels))

    return run


def picture(steps: dict[str, dict[str, float]], path: Path) -> None:
    """Parts of a step as bars, a row a combination."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(steps) + 1.6), layout="constrained")
    left = [0.0] * len(steps)
    for name, colour in zip(PARTS, ("#e49b3f", "#3b6fb6", "#9aa3ad", "#5aa469"), strict=True):
        widths = [values[name] / sum(values[part] for part in PARTS) * 100 for values in steps.values()]
        bars = axes.barh(list(steps), widths, left=left, color=colour, label=name)
        axes.bar_label(
            bars, [f"{width:.0f}%" if width >= 4 else "" for width in widths], label_type="center", color="w"
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set(xlim=(0, 100), xlabel="share of a training step's time, %")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="kuairand-pure")
    parser.add_argument("--models", nargs="+", default=["unimixer-lite", "unimixer", "rankmixer", "dcnv2"])
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--params", default="800K")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--samples", type=int, default=61_440, help="of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = open_dataset(arguments.dataset)
    combinations = list(itertools.product(arguments.models, arguments.batches))
    speeds: dict[tuple[str, int], list[tuple[float, float, float]]] = {key: [] for key in combinations}
    recipes = {key: recipe_of(dataset, *key, arguments) for key in combinations}
    with tempfile.TemporaryDirectory() as temporary:
        for turn in range(arguments.rounds):
            for key in combinations:
                before = matmul_rate(seconds=0.3)
                result = trained(recipes[key], Path(temporary) / f"{key[0]}-{key[1]}-{turn}")
                product = (before + matmul_rate(seconds=0.3)) / 2
                speeds[key].append((result["samples_per_second"], product, result["data_wait"]))
    rows, steps = [], {}
    for (model, batch), values in speeds.items():
        recipe = recipes[model, batch]
        with torch.device("meta"):
            params = count_dense(build_ranker(recipe.model, with_tasks(dataset.transform.spec, tuple(recipe.tasks))))
        shares = [6 * params * speed / product for speed, product, _ in values]
        steps[f"{model}, {batch}"] = step = parts(dataset, recipe)
        side = sum(step[part] for part in SIDE) / sum(step[part] for part in PARTS)
        speed = [value[0] for value in values]
        rows.append(
            [
                *(model, batch, f"{params:,}", f"{median(speed):,.0f}", f"{min(speed):,.0f} to {max(speed):,.0f}"),
                *(f"{median(v[1] for v in values) / 1e9:.0f}", f"{median(shares):.2f}"),
                *(f"{side:.0%}", f"{median(v[2] for v in values):.1%}", *(f"{ms:.1f}" for ms in step.values())),
            ]
        )
    print(f"{cpu_model()}, {arguments.threads} threads, torch {version('torch')}, {arguments.precision}\n")
    heads = ["model", "batch", "dense", "samples/s", "range", "sgemm, GFLOP/s", "6 N samples/s over sgemm"]
    heads += ["not the model", "waiting", *(f"{part}, ms" for part in next(iter(steps.values())))]
    print(markdown(heads, rows, left=1))
    if arguments.picture:
        picture(steps, arguments.picture)
        print(f"\n{arguments.picture}")


if __name__ == "__main__":
    script(main)
