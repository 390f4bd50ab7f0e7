"""What a machine can do at best, measured beside every implementation: products, a copy, the case's own products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from unimixer.bench.base import Product, Work

COPY_NUMBERS = 32 * 2**20
"""Numbers in the tensor that is copied: 128 MB, beyond any cache."""


class Ceiling(NamedTuple):
    """Something that does nothing but one kind of work."""

    run: Callable[[], object]
    amount: float
    """FLOPs or bytes of one run; for the case's own products, 1 run."""
    of_case: float
    """The same of one run of the case. What is reached of the ceiling is the ratio of the two rates."""


def ceilings(work: Work, device: torch.device) -> dict[str, Ceiling]:
    """The ceilings that the work of a case can be compared with.

    ``sgemm``: one large float32 product, for the FLOPs. ``products``: the batched products of the case alone, forward
    and backward, into memory that is there already. ``bandwidth``: a copy of a large tensor, for the bytes.
    """
    found: dict[str, Ceiling] = {}
    if work.flops:
        size = sgemm_size(device)
        found["sgemm"] = Ceiling(sgemm(size, device), 2.0 * size**3, work.flops)
    if work.products:
        found["products"] = Ceiling(bare_products(work.products, device), 1.0, 1.0)
    if work.num_bytes:
        found["bandwidth"] = Ceiling(copy(device), 8.0 * COPY_NUMBERS, work.num_bytes)
    return found


def sgemm_size(device: torch.device) -> int:
    """A product large enough to keep the machine busy, and small enough to be repeated often."""
    if device.type != "cpu":
        return 8192
    return 1024 if torch.get_num_threads() <= 4 else 4096


def sgemm(size: int, device: torch.device) -> Callable[[], object]:
    """One square product."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty(size, size, device=device)
    return lambda: torch.mm(a, b, out=out)


def copy(device: torch.device) -> Callable[[], object]:
    """One copy; it reads and writes every byte once."""
    source, target = torch.zeros(COPY_NUMBERS, device=device), torch.zeros(COPY_NUMBERS, device=device)
    return lambda: target.copy_(source)


def bare_products(products: Sequence[Product], device: torch.device) -> Callable[[], object]:
    r"""Forward and backward of products :math:`Y = X W` without anything between them.

    .. math:: Y = X W, \qquad \partial X = \partial Y\, W^T, \qquad \partial W = X^T\, \partial Y
    """
    triples = []
    for groups, rows, inner, columns in products:
        x = torch.randn(groups, rows, inner, device=device)
        weight = torch.randn(groups, inner, columns, device=device)
        y = torch.randn(groups, rows, columns, device=device)
        triples.append((x, weight, y, torch.empty_like(y), torch.empty_like(x), torch.empty_like(weight)))

    def run() -> None:
        for x, weight, y, to_y, to_x, to_weight in triples:
            torch.bmm(x, weight, out=to_y)
            torch.bmm(y, weight.mT, out=to_x)
            torch.bmm(x.mT, y, out=to_weight)

    return run
