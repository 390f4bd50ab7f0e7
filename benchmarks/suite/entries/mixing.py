"""Mixing: two products over the batch, the explicit matrix, and the definition, over L, N, b and the batch."""

from __future__ import annotations

from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Product, Setting, Work, differentiable
from unimixer import ops
from unimixer.errors import check_divisible


def inputs(case: Case, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Flattened tokens ``(B, L)``, a global matrix ``(N, N)`` and local ones ``(N, b, b)``."""
    length, block = case["L"], case["b"]
    check_divisible("L", length, by="b", divisor=block)
    num_blocks = length // block
    between = setting.normal(num_blocks, num_blocks, scale=num_blocks**-0.5)
    inside = setting.normal(num_blocks, block, block, scale=block**-0.5)
    return setting.normal(case["batch"], length), between, inside


def matrix(x_BL: Tensor, global_NN: Tensor, local_Nbb: Tensor) -> Tensor:
    """Build the L x L matrix, then one product."""
    return x_BL @ ops.unimixing_matrix(global_NN, local_Nbb).mT


def definition(x_BL: Tensor, global_NN: Tensor, local_Nbb: Tensor) -> Tensor:
    """Mix by the unified form as it reads: values of every block, then weights between blocks, batch first."""
    blocks = x_BL.view(len(x_BL), len(global_NN), -1)
    return ops.apply_weights(global_NN.unsqueeze(0), ops.per_token_linear(blocks, local_Nbb)).flatten(1)


def work(case: Case) -> Work:
    """Two products forward, twice that backward; input, output and their gradients pass the memory at least once."""
    batch, length, block = case["batch"], case["L"], case["b"]
    num_blocks = length // block
    return Work(
        flops=6.0 * batch * length * (block + num_blocks),
        num_bytes=4.0 * (5 * batch * length + 3 * (num_blocks**2 + length * block)),
        rows=batch,
        products=(Product(num_blocks, batch, block, block), Product(1, num_blocks, num_blocks, batch * block)),
    )


def _two_step(data: tuple[Tensor, Tensor, Tensor]) -> Prepared:
    return differentiable(ops.unimixing, *data)


def _matrix(data: tuple[Tensor, Tensor, Tensor]) -> Prepared:
    return differentiable(matrix, *data)


def _definition(data: tuple[Tensor, Tensor, Tensor]) -> Prepared:
    return differentiable(definition, *data)


BENCHMARKS = (
    Benchmark(
        name="mixing",
        measures="one mixing of flattened tokens, forward and backward: against L, N = L / b, b and the batch",
        inputs=inputs,
        implementations={"explicit matrix": _matrix, "definition": _definition, "two-step": _two_step},
        cases=(
            Case.of(L=512, b=4, batch=512),
            Case.of(L=1024, b=4, batch=512),
            Case.of(L=1024, b=2, batch=512),
            Case.of(L=1024, b=16, batch=512),
            Case.of(L=1024, b=64, batch=512),
            Case.of(L=1024, b=4, batch=128),
            *(Case.of(small=False, L=length, b=4, batch=batch) for length in (32, 64, 128) for batch in (64, 2048)),
            Case.of(small=False, L=1024, b=4, batch=2048),
            Case.of(small=False, L=2048, b=4, batch=512),
            Case.of(small=False, L=4096, b=4, batch=512),
            Case.of(small=False, L=4096, b=64, batch=512),
        ),
        work=work,
    ),
)
