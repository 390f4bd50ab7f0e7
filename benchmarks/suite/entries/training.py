"""One training step, whole and in parts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, Work, fixed_gradient
from benchmarks.suite.entries.stores import world_dataset
from unimixer.data.loader import Loader
from unimixer.features.batch import Batch
from unimixer.mixing import set_temperature
from unimixer.ranker import Ranker
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, resolve
from unimixer.training.optimizers import build_optimizers
from unimixer.training.step import TrainStep

ROWS = 20_000
PARAMS = "300K"
_LARGE = 1_000_000
"""Total steps, so many that the schedules do not move."""


class Inputs(NamedTuple):
    """Hold a model with its recipe, a batch, a loader, and the part of the case."""

    model: Ranker
    recipe: Recipe
    batch: Batch
    loader: Loader
    part: str


def inputs(case: Case, setting: Setting) -> Inputs:
    """Initialize a ranker on the synthetic world and take its first batch."""
    dataset = world_dataset(setting.folder / "dataset", ROWS, history=case["history"])
    spec = dataset.transform.spec
    values = {
        "name": "benchmark",
        "dataset": str(dataset.folder),
        "model": {"backbone": case["model"], "dense_params": PARAMS},
        "training": {"batch_size": case["batch"]},
    }
    recipe = resolve(parse(Recipe, values, where="benchmark"), spec)
    torch.manual_seed(0)
    model = build_ranker(recipe.model, spec).to(setting.device).train()
    loader = Loader(dataset, "train", batch_size=case["batch"], shuffle=True, num_workers=0)
    batch = next(iter(loader.batches())).to(setting.device)
    return Inputs(model, recipe, batch, loader, case.sizes.get("part", ""))


def _plain(data: Inputs) -> Prepared:
    """Prepare the loop of a textbook: scores, loss, gradients, update."""
    model = copy.deepcopy(data.model)
    optimizers = build_optimizers(model, data.recipe.optimizer)
    weights = torch.tensor(list(data.recipe.tasks.values()), device=data.batch.sparse_ids.device)

    def run() -> Tensor:
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        set_temperature(model, data.recipe.temperature.end)
        assert data.batch.labels is not None
        losses = F.binary_cross_entropy_with_logits(model(data.batch), data.batch.labels, reduction="none")
        loss = (losses @ weights).mean()
        torch.autograd.backward(loss)
        for optimizer in optimizers.values():
            optimizer.step()
        return loss

    return Prepared(run, lambda: _results(model, run()))


def _step(data: Inputs) -> Prepared:
    """Prepare the step of the training loop, with its checks and schedules."""
    model = copy.deepcopy(data.model)
    columns = torch.arange(len(data.recipe.tasks), device=data.batch.sparse_ids.device)
    step = TrainStep(
        model, data.recipe, columns, total_steps=_LARGE, checkpoints=data.loader.dataset.folder / "checkpoints"
    )

    def run() -> Tensor:
        return step([data.batch], 0).loss

    return Prepared(run, lambda: _results(model, run()))


def _results(model: Ranker, loss: Tensor) -> dict[str, Tensor]:
    results = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            dense = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            results[f"gradient of {name}"] = dense.clone()
    return results


def _part(data: Inputs) -> Prepared:
    """Prepare one part of a step alone."""
    return PARTS[data.part](data._replace(model=copy.deepcopy(data.model)))


def _embedding(data: Inputs) -> Prepared:
    upstream: list[Tensor] = []
    data.model.embedding.tables.use_sparse_gradients()  # as in training

    def run() -> Tensor:
        data.model.zero_grad(set_to_none=True)
        embedded = data.model.embed(data.batch)[0]
        if not upstream:
            upstream.append(fixed_gradient(embedded))
        torch.autograd.backward(embedded, upstream[0])
        return embedded

    return Prepared(run, lambda: {"embedded": run().detach()})


def _dense(data: Inputs) -> Prepared:
    with torch.no_grad():
        embedded = [part.clone() for part in data.model.embed(data.batch)]
    embedded[0].requires_grad_()

    def run() -> Tensor:
        data.model.zero_grad(set_to_none=True)
        embedded[0].grad = None
        assert data.batch.labels is not None
        loss = F.binary_cross_entropy_with_logits(data.model.score(*embedded), data.batch.labels)
        torch.autograd.backward(loss)
        return loss

    return Prepared(run, lambda: {"loss": run().detach()})


def _optimizers(data: Inputs) -> Prepared:
    assert data.batch.labels is not None
    optimizers = build_optimizers(data.model, data.recipe.optimizer)  # first: it asks for row-sparse gradients
    torch.autograd.backward(F.binary_cross_entropy_with_logits(data.model(data.batch), data.batch.labels))

    def run() -> None:
        for optimizer in optimizers.values():
            optimizer.step()

    def results() -> dict[str, Tensor]:
        run()
        return {name: parameter.detach() for name, parameter in data.model.named_parameters()}

    return Prepared(run, results)


def _loader(data: Inputs) -> Prepared:
    endless = itertools.chain.from_iterable(data.loader.batches(epoch) for epoch in itertools.count())
    return Prepared(lambda: next(endless), lambda: {"ids": next(endless).sparse_ids})


PARTS: dict[str, Callable[[Inputs], Prepared]] = {
    "embedding": _embedding,
    "dense": _dense,
    "optimizers": _optimizers,
    "loader": _loader,
}
"""Forward and backward of the tables; of the rest; both updates; a batch that nobody assembled ahead of time."""

BENCHMARKS = (
    Benchmark(
        name="training-step",
        measures=f"one step of a ranker with {PARAMS} dense parameters, data at hand: a textbook's loop and ours",
        inputs=inputs,
        implementations={"plain loop": _plain, "TrainStep": _step},
        cases=(
            Case.of(model="unimixer-lite", batch=512, history=50),
            Case.of(model="rankmixer", batch=512, history=50),
            Case.of(small=False, model="unimixer-lite", batch=128, history=50),
            Case.of(small=False, model="unimixer-lite", batch=2048, history=50),
            Case.of(small=False, model="unimixer-lite", batch=512, history=10),
            Case.of(small=False, model="unimixer", batch=512, history=50),
        ),
        work=lambda case: Work(rows=case["batch"]),
        tolerance=1e-3,
    ),
    Benchmark(
        name="training-parts",
        measures="the parts of that step: tables, dense layers, optimizers, and a batch from the loader",
        inputs=inputs,
        implementations={"alone": _part},
        cases=tuple(Case.of(part=part, model="unimixer-lite", batch=512, history=50) for part in PARTS),
        work=lambda case: Work(rows=case["batch"]),
    ),
)
