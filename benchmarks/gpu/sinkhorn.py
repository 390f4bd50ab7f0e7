"""Sinkhorn scaling on a GPU: the Triton kernel beside the solver in torch, forward alone and with its gradient.

Before a time is taken, the plan and the gradient of both are compared with those of the solver in float64. The solver
asks the GPU at every step whether to go on, so that no compiler and no CUDA graph can hold it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from kit import Rows, captured, milliseconds, reason
from torch import Tensor

from unimixer import ops
from unimixer.ops.sinkhorn import triton

CASES = ((256, 4), (1, 16), (256, 16), (4096, 16), (1, 64), (16, 64), (1, 128), (1, 256), (8, 256))
"""Matrices, and their width; UniMixer with 16 tokens has one matrix of 256 and 256 of the width of a block."""
COLUMNS = ("matrices", "width", "symmetric", "solver", "forward_ms", "step_ms", "graph_forward_ms", "graph_step_ms")
TAU, TOLERANCE = 0.1, 2e-3


@contextmanager
def solver(name: str) -> Iterator[None]:
    """Take the kernel, or the solver in torch, for every CUDA tensor."""
    before = triton.supports
    triton.supports = before if name == "triton" else lambda scores: False
    try:
        yield
    finally:
        triton.supports = before


def passes(logits: Tensor, upstream: Tensor, symmetric: bool) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Forward alone, and forward with the gradient of the logits."""
    leaf = logits.clone().requires_grad_()

    def forward() -> Tensor:
        with torch.no_grad():
            return ops.sinkhorn(logits, tau=TAU, symmetric=symmetric)

    def step() -> Tensor:
        return torch.autograd.grad(ops.sinkhorn(leaf, tau=TAU, symmetric=symmetric), leaf, upstream)[0]

    return forward, step


def check(computed: Tensor, expected: Tensor) -> None:
    """Raise where results are not those of float64."""
    error = float((computed.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    if not error <= TOLERANCE:
        raise AssertionError(f"wrong: the largest error is {error:.1e} of the largest number, above {TOLERANCE:.0e}")


def measure(rows: Rows, count: int, width: int, symmetric: bool, device: torch.device) -> bool:
    """Rows of one case; whether all of it was right and could be measured."""
    torch.manual_seed(0)
    logits = torch.randn(count, width, width).mul(0.3).to(device)
    upstream = torch.randn(count, width, width).to(device)
    with solver("torch"):
        expected = [call() for call in passes(logits.double(), upstream.double(), symmetric)]
    fine = True
    for name in ("torch", "triton"):
        case = {"matrices": count, "width": width, "symmetric": symmetric, "solver": name}
        try:
            with solver(name):
                calls = passes(logits, upstream, symmetric)
                for call, wanted in zip(calls, expected, strict=True):
                    check(call(), wanted)
                times = [milliseconds(call, device) for call in calls]
                if name == "triton" and device.type == "cuda":
                    times += [milliseconds(captured(call), device) for call in calls]
                rows.add(**case, **dict(zip(COLUMNS[4:], times, strict=False)))
        except Exception as error:
            fine = False
            print(f"FAILED {case}: {reason(error)}", flush=True)
    return fine


def main(arguments: Sequence[str]) -> int:
    """Measure all cases; 1 where any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu-sinkhorn.csv"))
    parser.add_argument("--small", action="store_true", help="three cases")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = Rows(options.out, COLUMNS, device)
    rows.begin()
    cases = CASES[:3] if options.small else CASES
    results = [measure(rows, *case, symmetric, device) for symmetric in (True, False) for case in cases]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
