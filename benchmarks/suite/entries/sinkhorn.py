"""Time Sinkhorn: the solver with its implicit gradient beside unrolled iterations, and cached matrices."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, Work, differentiable
from unimixer import ops
from unimixer.mixing import UniMixing

TAU = 0.2
TOLERANCE = 1e-5


def inputs(case: Case, setting: Setting) -> tuple[Tensor, bool]:
    """Draw raw matrices ``(batch, N, N)`` near the initial ones, and whether a gradient is wanted."""
    size = case["N"]
    noise = setting.normal(case["batch"], size, size, scale=0.3)
    return noise + torch.eye(size, device=noise.device).flip(0), case["passes"] == "both"


def unrolled(logits: Tensor) -> Tensor:
    """Iterate to the same tolerance, recorded by autograd."""
    scores = logits / TAU
    return ops.sinkhorn_reference((scores + scores.mT) / 2, symmetric=True, tolerance=TOLERANCE)


def implicit(logits: Tensor) -> Tensor:
    """Solve as training does."""
    return ops.sinkhorn(logits, tau=TAU, symmetric=True, tolerance=TOLERANCE)


def _prepare(data: tuple[Tensor, bool], *, unroll: bool) -> Prepared:
    logits, backward = data
    return differentiable(unrolled if unroll else implicit, logits, backward=backward)


def mixing_inputs(case: Case, setting: Setting) -> UniMixing:
    """Make a mixing with random raw matrices."""
    mixing = UniMixing(case["L"], case["b"], init="random", temperature=TAU).to(setting.device)
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.copy_(setting.normal(*parameter.shape, scale=0.3))
    return mixing


def _weights(data: UniMixing, *, cached: bool) -> Prepared:
    mixing = copy.deepcopy(data).train(not cached)  # a mixing in training caches nothing

    def run() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return mixing.weights()

    def results() -> dict[str, Tensor]:
        between, inside = run()
        return {"global": between, "local": inside}

    return Prepared(run, results)


BENCHMARKS = (
    Benchmark(
        name="sinkhorn",
        measures=f"symmetric doubly stochastic matrices at tau={TAU}, forward or both passes: against N and the batch",
        inputs=inputs,
        implementations={"unrolled": partial(_prepare, unroll=True), "implicit": partial(_prepare, unroll=False)},
        cases=(
            Case.of(passes="forward", N=64, batch=1),
            Case.of(passes="both", N=16, batch=1),
            Case.of(passes="both", N=64, batch=1),
            Case.of(passes="both", N=256, batch=1),
            Case.of(passes="both", N=4, batch=256),
            Case.of(passes="both", N=16, batch=64),
            Case.of(small=False, passes="forward", N=256, batch=1),
            Case.of(small=False, passes="both", N=512, batch=1),
            Case.of(small=False, passes="both", N=1024, batch=1),
            Case.of(small=False, passes="both", N=4, batch=1024),
        ),
        work=lambda case: Work(rows=case["batch"]),
        # iterations that stop where sums are right to 1e-5 have a gradient that is right to two digits or three
        tolerance=1e-2,
    ),
    Benchmark(
        name="sinkhorn-cached",
        measures="the matrices of one mixing in evaluation: solved at every call, or kept while nothing changes",
        inputs=mixing_inputs,
        implementations={"solved": partial(_weights, cached=False), "cached": partial(_weights, cached=True)},
        cases=(Case.of(L=512, b=4), Case.of(L=1024, b=4), Case.of(small=False, L=4096, b=4)),
    ),
)
