"""Constraints on raw matrices: the temperature, a cache for inference, and one solution for a whole training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_positive


@dataclass(frozen=True)
class Constraint:
    """The constraint on a learned matrix.

    Args:
        temperature: of Sinkhorn scaling; 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        doubly_stochastic: constrain by Sinkhorn scaling; without it raw matrices mix, and temperature has no effect.
    """

    temperature: float = 0.1
    symmetric: bool = True
    doubly_stochastic: bool = True


class Constrained(nn.Module):
    r"""Learned matrices that are symmetric, doubly stochastic, and as sparse as the temperature makes them.

    .. math:: \tilde W = (W + W^T) / 2, \qquad \bar W = \mathrm{Sinkhorn}(\tilde W / \tau)

    arXiv:2604.00590, "UniMixing". The temperature is a buffer, saved with the weights; :func:`set_temperature` changes
    it, the same for global and local matrices (the paper is silent).

    In evaluation mode, and where no gradient is recorded, the constrained matrices are computed once and cached, with
    a copy of the values that they follow from: a change of parameters or temperature, by whatever means, is seen
    (version counters miss fused optimizers). The cache is never saved, moved or copied.
    :func:`cached_constraints` computes them once for several forwards of training.
    """

    temperature: Tensor

    def __init__(self, constraint: Constraint) -> None:
        super().__init__()
        check_positive(temperature=constraint.temperature)
        self.symmetric, self.doubly_stochastic = constraint.symmetric, constraint.doubly_stochastic
        self.register_buffer("temperature", torch.tensor(float(constraint.temperature)))
        self._cache: tuple[list[Tensor], Tensor] | None = None
        self._held: Tensor | None = None

    def raw(self) -> Tensor:
        """The matrices before their constraints, ``(..., n, n)``."""
        raise NotImplementedError

    def matrices(self) -> Tensor:
        """The matrices after their constraints, from a cache where that is allowed."""
        if self._held is not None:
            return self._held
        recorded = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if self.training or recorded or torch.compiler.is_compiling() or _capturing(self.temperature):
            return self._constrain(self.raw())
        sources = [*self.parameters(), self.temperature]
        cache = self._cache
        if cache is None or not all(map(_same, cache[0], sources)):
            with torch.inference_mode(False), torch.no_grad():
                cache = self._cache = [source.clone() for source in sources], self._constrain(self.raw())
        return cache[1]

    def _constrain(self, raw: Tensor) -> Tensor:
        if self.doubly_stochastic:
            return ops.sinkhorn(raw, tau=self.temperature, symmetric=self.symmetric)
        return (raw + raw.mT) / 2 if self.symmetric else raw

    def constraints(self) -> str:
        """The constraints in words."""
        words = {"doubly stochastic": self.doubly_stochastic, "symmetric": self.symmetric}
        return ", ".join(word for word, holds in words.items() if holds) or "unconstrained"

    def train(self, mode: bool = True) -> Constrained:
        """Switch the mode; training drops the cache."""
        if mode:
            self._cache = None
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Constrained:
        self._cache = self._held = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_held": None}


def _capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph captures what follows: it cannot compare a cache, and has to follow later parameters."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _same(kept: Tensor, current: Tensor) -> bool:
    alike = kept.dtype == current.dtype and kept.device == current.device and kept.shape == current.shape
    return alike and torch.equal(kept, current)


def set_temperature(module: nn.Module, tau: float) -> None:
    """Set the temperature of every constrained matrix inside a module; their caches are dropped.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> mixing = UniMixing(length=8, block_size=2, init="identity")
        >>> set_temperature(mixing, 0.05)
        >>> round(mixing.temperature.item(), 3)
        0.05
    """
    check_positive(temperature=tau)
    for part in module.modules():
        if isinstance(part, Constrained):
            part.temperature.fill_(tau)
            part._cache = None


@contextmanager
def cached_constraints(module: nn.Module) -> Iterator[None]:
    r"""Compute the constrained matrices :math:`\bar W` once; every forward and backward inside uses these values.

    .. math:: \frac{\partial L}{\partial W} =
              \Big(\frac{\partial \bar W}{\partial W}\Big)^{\!\top} \sum_m \frac{\partial L_m}{\partial \bar W}

    The batches m of a step share their weights, so the constraint is solved once before the first, backward adds up
    gradients of :math:`\bar W`, and the end takes their sum through the constraint once. Raw matrices get their
    ``grad`` only then. Nothing inside may change weights or the temperature. After an error nothing is cached and the
    raw matrices have no gradient from inside.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> mixing = UniMixing(length=8, block_size=2, init="identity")
        >>> with cached_constraints(mixing):
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
    """Compute the matrices of every part, with their graph; those of one shape in one call, with the same bits.

    A solver of small matrices spends its time between operations rather than in them, so eight layers cost about as
    much as one.
    """
    raws = [part.raw() for part in parts]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (part, raw) in enumerate(zip(parts, raws, strict=True)):
        alone = None if part.doubly_stochastic else index
        groups.setdefault((raw.shape, raw.dtype, raw.device, part.symmetric, alone), []).append(index)
    solutions: dict[int, Tensor] = {}
    for members in groups.values():
        first = members[0]
        if len(members) == 1:
            solutions[first] = parts[first]._constrain(raws[first])
            continue
        stacked = torch.stack([raws[index] for index in members])
        tau = torch.stack([parts[index].temperature for index in members])
        solution = ops.sinkhorn(
            stacked, tau=tau.reshape(-1, *(1 for _ in raws[first].shape)), symmetric=parts[first].symmetric
        )
        solutions.update(zip(members, solution.unbind(), strict=True))
    return [solutions[index] for index in range(len(parts))]
