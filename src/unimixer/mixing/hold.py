"""Constrained matrices computed once for all batches of an optimizer step, layers of one shape together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.mixing.constrained import Constrained


@contextmanager
def constrained_once(module: nn.Module) -> Iterator[None]:
    r"""Inside, every forward and backward uses the constrained matrices :math:`\bar W` as they are at the start.

    .. math:: \frac{\partial L}{\partial W} =
              \Big(\frac{\partial \bar W}{\partial W}\Big)^{\!\top} \sum_m \frac{\partial L_m}{\partial \bar W}

    The batches m of a step share their weights, so the constraint is solved once before the first, backward adds up
    gradients of :math:`\bar W`, and the end takes their sum through the constraint once. Gradients of raw matrices
    stand in ``grad`` only then. Nothing inside may change weights or the temperature. After an error nothing is held
    and the raw matrices have no gradient from inside.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> mixing = UniMixing(length=8, block_size=2, init="identity")
        >>> with constrained_once(mixing):
        ...     for _ in range(4):
        ...         mixing(torch.ones(3, 8)).square().sum().backward()
        >>> mixing.global_.logits.grad.shape
        torch.Size([4, 4])
    """
    parts = [part for part in module.modules() if isinstance(part, Constrained)]
    solved = solve_together(parts)
    leaves = [matrices.detach().requires_grad_(matrices.requires_grad) for matrices in solved]
    try:
        for part, leaf in zip(parts, leaves, strict=True):
            part._held = leaf
        yield
    finally:
        for part in parts:
            part._held = None
    pairs = [(matrices, leaf.grad) for matrices, leaf in zip(solved, leaves, strict=True) if leaf.grad is not None]
    if pairs:
        matrices, gradients = zip(*pairs, strict=True)
        torch.autograd.backward(matrices, gradients)


def solve_together(parts: Sequence[Constrained]) -> list[Tensor]:
    """The matrices of every part, with their graph; those of one shape in one call, whose results are the same bits.

    A solver of small matrices spends its time between operations rather than in them, so eight layers cost about as
    much as one.
    """
    raws = [part.raw() for part in parts]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (part, raw) in enumerate(zip(parts, raws, strict=True)):
        alone = None if part.doubly_stochastic else index
        groups.setdefault((raw.shape, raw.dtype, raw.device, part.symmetric, alone), []).append(index)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        first = members[0]
        if len(members) == 1:
            found[first] = parts[first]._constrain(raws[first])
            continue
        stacked = torch.stack([raws[index] for index in members])
        tau = torch.stack([parts[index].temperature for index in members])
        solution = ops.sinkhorn(
            stacked, tau=tau.reshape(-1, *(1 for _ in raws[first].shape)), symmetric=parts[first].symmetric
        )
        found.update(zip(members, solution.unbind(), strict=True))
    return [found[index] for index in range(len(parts))]
