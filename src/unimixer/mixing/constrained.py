"""Learned matrices under their constraint: temperature, cache for inference, one solution for a whole training step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing.constraint import Constraint


class Constrained(nn.Module):
    r"""Learned matrices that are symmetric, doubly stochastic, and as sparse as the temperature makes them.

    .. math:: \tilde W = (W + W^T) / 2, \qquad \bar W = \mathrm{Sinkhorn}(\tilde W / \tau)

    arXiv:2604.00590, "UniMixing"; :class:`~unimixer.mixing.constraint.Constraint` lists the other constraints. The
    temperature is a buffer, saved with the weights; :func:`set_temperature` changes it, the same for global and local
    matrices (the paper is silent).

    In evaluation mode, and where no gradient is recorded, the constrained matrices are computed once and cached, with
    a copy of the values that they follow from: a change of parameters or temperature, by whatever means, is seen
    (version counters miss fused optimizers). The cache is never saved, moved or copied.
    :func:`cached_constraints` computes them once for several forwards of training.

    Args:
        constraint: the constraint.
        around: the permutation P of the constraint, ``(n,)``: of the gate, or where Cayley's transform starts.

    Shape:
        - raw numbers and output of :meth:`matrices`: ``(N, N)`` between blocks; ``(N, b, b)`` inside them, or
          ``(1, b, b)`` where all blocks share one

    Example:
        >>> from unimixer.mixing import LearnedGlobal
        >>> matrix = LearnedGlobal(4).matrices()
        >>> bool((matrix.sum(0) - 1).abs().max() < 1e-4), bool((matrix - matrix.mT).abs().max() < 1e-4)
        (True, True)
    """

    temperature: Tensor
    around: Tensor | None

    def __init__(self, constraint: Constraint, around: Tensor | None = None) -> None:
        super().__init__()
        _check_permutation(around, constraint)
        self.constraint = constraint
        self.symmetric, self.doubly_stochastic = constraint.symmetric, constraint.doubly_stochastic
        self.register_buffer("temperature", torch.tensor(float(constraint.temperature)))
        self.register_buffer("around", around, persistent=False)
        if constraint.gate is not None:
            self.gate = nn.Parameter(torch.tensor(math.log(constraint.gate / (1 - constraint.gate))))
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

    def at_temperature(self, tau: float) -> Tensor:
        """The matrices at another temperature, without a cache."""
        return self._constrain(self.raw(), torch.as_tensor(tau).to(self.temperature))

    def symmetric_raw(self) -> Tensor:
        """The learned numbers as far as they matter: of symmetric matrices, the symmetric part."""
        raw = self.raw()
        return (raw + raw.mT) / 2 if self.symmetric else raw

    def _constrain(self, raw: Tensor, tau: Tensor | None = None) -> Tensor:
        tau = self.temperature if tau is None else tau
        kind = self.constraint.kind
        if kind == "sinkhorn":
            return self._gated(ops.sinkhorn(self._capped(raw, tau), tau=tau, symmetric=self.symmetric))
        if kind == "unit-rows":
            return ops.unit_rows(raw)
        if kind == "orthogonal":
            turned = ops.cayley(raw)
            return turned if self.around is None else turned[..., self.around, :]
        return self._gated((raw + raw.mT) / 2 if self.symmetric else raw)

    def _capped(self, raw: Tensor, tau: Tensor) -> Tensor:
        """The raw matrices as Sinkhorn gets them, before the temperature divides them."""
        cap = self.constraint.range_cap
        if cap is None:
            return raw
        return ops.cap_range((raw + raw.mT) / 2 if self.symmetric else raw, cap * tau)

    def _gated(self, matrices: Tensor) -> Tensor:
        """The convex sum of the permutation and the matrices, where there is a gate."""
        if self.constraint.gate is None:
            return matrices
        assert self.around is not None
        return torch.lerp(ops.permutation_matrix(self.around).to(matrices), matrices, self.gate.sigmoid())

    def constraints(self) -> str:
        """The constraints in words."""
        return self.constraint.words()

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


def _check_permutation(around: Tensor | None, constraint: Constraint) -> None:
    """Raise unless the constraint has its permutation, one that keeps matrices symmetric where they have to be."""
    if around is None:
        if constraint.surrounds_permutation:
            raise UnimixerError("a gate needs the permutation of its blocks; pass around, such as torch.arange(8)")
    elif constraint.symmetric and not around.is_meta and not _is_involution(around):
        raise UnimixerError(
            "the permutation to start from is not its own inverse, so that sums and products with it are not "
            "symmetric; set symmetric: false"
        )


def _is_involution(permutation: Tensor) -> bool:
    return torch.equal(permutation[permutation], torch.arange(len(permutation), device=permutation.device))


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
        alone = None if part.constraint.kind == "sinkhorn" else index
        groups.setdefault((raw.shape, raw.dtype, raw.device, part.symmetric, alone), []).append(index)
    solutions: dict[int, Tensor] = {}
    for members in groups.values():
        first = members[0]
        if len(members) == 1:
            solutions[first] = parts[first]._constrain(raws[first])
            continue
        stacked = torch.stack([parts[index]._capped(raws[index], parts[index].temperature) for index in members])
        tau = torch.stack([parts[index].temperature for index in members])
        solution = ops.sinkhorn(
            stacked, tau=tau.reshape(-1, *(1 for _ in raws[first].shape)), symmetric=parts[first].symmetric
        )
        solutions.update(
            (index, parts[index]._gated(own)) for index, own in zip(members, solution.unbind(), strict=True)
        )
    return [solutions[index] for index in range(len(parts))]
