"""Sinkhorn over sizes, temperatures and kinds of logits, beside the unrolled reference: one row of CSV a case.

The reference runs to the same tolerance; its columns are empty where it does not reach it within ``--cap`` iterations,
and where its graph would take more than ``--memory`` MB. ``worst_sum`` is the largest deviation of a row or column sum
from one. Times are the fastest of ``--repeats`` on one thread. Example:

    python benchmarks/sinkhorn_range.py --sizes 16 64 256 --taus 1 0.1 0.05 0.01
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from unimixer.cli import script
from unimixer.ops import permutation_matrix, sinkhorn, sinkhorn_reference, token_mixing_permutation
from unimixer.ops.sinkhorn.newton import scale

TOLERANCE = 1e-5


def rule(size: int) -> Tensor:
    heads = math.isqrt(size)
    if heads * heads != size:
        return torch.eye(size).flip(0)
    return permutation_matrix(token_mixing_permutation(heads, heads, heads)).float()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def one_hard_in_eight(size: int) -> Tensor:
    return torch.cat([normal(1, size, size), rule(size).expand(7, size, size)])


KINDS: dict[str, Callable[[int], Tensor]] = {
    "rule": rule,
    "rule_noise": lambda size: rule(size) + 0.1 * normal(size, size),
    "normal": lambda size: normal(size, size),
    "small_normal": lambda size: 0.1 * normal(size, size),
    "low_rank": lambda size: normal(size, 4) @ normal(4, size) / 2,
    "blocks": lambda size: torch.eye(4).repeat_interleave(-(-size // 4), 0).repeat_interleave(-(-size // 4), 1),
    "one_hard_in_8": one_hard_in_eight,
}


def timed(function: Callable[[Tensor], Tensor], scores: Tensor, repeats: int) -> tuple[float, float]:
    """The fastest forward, its graph recorded, and the fastest backward, in milliseconds."""
    leaf = scores.clone().requires_grad_()
    times = []
    for _ in range(repeats + 1):
        leaf.grad = None
        start = time.perf_counter()
        plan = function(leaf)
        middle = time.perf_counter()
        torch.autograd.backward(plan, torch.ones_like(plan))
        times.append((middle - start, time.perf_counter() - middle))
    forward, backward = (1000 * min(column) for column in zip(*times[1:], strict=True))
    return forward, backward


def case(kind: str, size: int, tau: float, symmetric: bool, options: argparse.Namespace) -> str:
    scores = KINDS[kind](size)[..., :size, :size] / tau
    if symmetric:
        scores = (scores + scores.mT) / 2
    plan, steps = scale(scores, symmetric, TOLERANCE, 200)
    worst = max((plan.double().sum(axis) - 1).abs().max().item() for axis in (-1, -2))
    forward, backward = timed(lambda s: sinkhorn(s, symmetric=symmetric, tolerance=TOLERANCE), scores, options.repeats)
    row = f"{kind},{size},{tau},{int(symmetric)},{steps.max()},{worst:.1e},{forward:.2f},{backward:.2f}"

    iterations = reference_iterations(scores, symmetric, options.cap)
    if iterations is None:
        return row + ",,,"
    if iterations * scores.numel() * 16 > options.memory * 2**20:  # four tensors of four bytes an iteration
        return row + f",{iterations},,"

    def reference(s: Tensor) -> Tensor:
        return sinkhorn_reference(s, symmetric=symmetric, tolerance=TOLERANCE, max_iterations=options.cap)

    forward, backward = timed(reference, scores, options.repeats)
    return row + f",{iterations},{forward:.2f},{backward:.2f}"


def reference_iterations(scores: Tensor, symmetric: bool, cap: int) -> int | None:
    """The fewest iterations, among powers of two, with which the reference reaches the tolerance."""
    iterations = 1
    while iterations <= cap:
        plan = sinkhorn_reference(scores, symmetric=symmetric, tolerance=TOLERANCE, max_iterations=iterations)
        if max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2)) <= TOLERANCE:
            return iterations
        iterations *= 2
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--taus", type=float, nargs="+", default=[1.0, 0.1, 0.05, 0.01])
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cap", type=int, default=1024, help="most iterations of the reference")
    parser.add_argument("--memory", type=int, default=2048, help="most MB that the reference's graph may take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = "kind,size,tau,symmetric,steps,worst_sum,forward_ms,backward_ms"
    print(columns + ",reference_iterations,reference_forward_ms,reference_backward_ms")
    for kind in options.kinds:
        for size in options.sizes:
            for tau in options.taus:
                for symmetric in (True, False):
                    print(case(kind, size, tau, symmetric, options), flush=True)


if __name__ == "__main__":
    script(main)
