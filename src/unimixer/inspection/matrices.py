"""Measure mixing matrices: solve learned ones at any temperature, and compare them with permutations and each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError
from unimixer.mixing import Constrained, FullGlobal, PerHeadGlobal, Unified, nearest_permutation

LARGEST_LOCAL = 64
"""Local matrices of a layer that go into the numbers, evenly spaced over the blocks."""

LEARNED = (Constrained, FullGlobal, PerHeadGlobal)
"""Patterns between blocks that are learned, square, and the same for every input."""

STILL = 1e-4
"""A matrix of which a smaller share moved equals its start."""


@dataclass(frozen=True)
class Sharpness:
    """Distances of matrices from a permutation and from the flat average; means over a stack of matrices."""

    size: int
    """Rows of a matrix."""
    row_maximum: float
    """Mean of the largest entry of every row: 1 for a permutation, 1 / N for a flat matrix."""
    row_entropy: float | None
    """Mean entropy of rows in nats, divided by log N: 0 and 1. None where entries may be negative."""
    to_permutation: float
    """Distance to the nearest permutation, divided by the norm of a permutation, sqrt(N); at most about sqrt(2)."""
    to_flat: float
    """Distance to the matrix of 1 / N, likewise; sqrt(1 - 1 / N) for a permutation."""
    row_error: float
    """Largest distance of a row sum from one."""


@dataclass(frozen=True)
class LearnedMixing:
    """The learned matrices of one mixing, before their constraints."""

    place: str
    mixing: Unified

    @property
    def has_temperature(self) -> bool:
        """Whether the temperature changes the global matrix."""
        part = self.mixing.global_
        return isinstance(part, Constrained) and part.doubly_stochastic

    @property
    def block_size(self) -> int:
        """Width of a block of the global matrix; with a matrix a head, that of a head of a token."""
        return self.mixing.block_size // self.mixing.global_.num_heads

    @property
    def temperature(self) -> float | None:
        """The temperature that the weights were saved with."""
        part = self.mixing.global_
        return part.temperature.item() if isinstance(part, Constrained) and self.has_temperature else None

    @torch.no_grad()
    def raw(self) -> Tensor:
        """Return the parameters of the global matrix before Sinkhorn; of symmetric ones, the symmetric part."""
        part = self.mixing.global_
        if not isinstance(part, Constrained):
            return self.between()
        return part.symmetric_raw()

    def between(self, tau: float | None = None) -> Tensor:
        """Return the global matrix ``(N, N)``, at a temperature or as the model uses it.

        H matrices of T tokens, one a head, are one matrix between N = T H blocks that keeps every block in its head.
        """
        part = self.mixing.global_
        if isinstance(part, Constrained) and part.num_heads == 1:
            return at_temperature(part, tau)
        heads = at_temperature(part, tau) if isinstance(part, Constrained) else part.weights().detach()
        return torch.diag_embed(heads.permute(1, 2, 0)).transpose(1, 2).reshape(2 * [heads.shape[0] * heads.shape[1]])

    def inside(self, tau: float | None = None) -> Tensor | None:
        """Return the local matrices ``(n, b, b)``, or None without a learned local pattern."""
        part = self.mixing.local
        return at_temperature(part, tau) if isinstance(part, Constrained) else None


def learned_mixings(module: nn.Module) -> list[LearnedMixing]:
    """Collect all mixings whose global matrix is learned, square, and the same for every input."""
    mixings = [(name, part) for name, part in module.named_modules() if isinstance(part, Unified)]
    return [LearnedMixing(n, part) for n, part in mixings if isinstance(part.global_, LEARNED)]


@torch.no_grad()
def at_temperature(part: Constrained, tau: float | None = None) -> Tensor:
    """Solve the constrained matrices again at a temperature, without changing the module.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> part = UniMixing(length=8, block_size=2, init="identity", temperature=0.1).global_
        >>> [round(at_temperature(part, tau).amax().item(), 2) for tau in (0.05, 1.0, 100.0)]
        [1.0, 0.48, 0.25]
    """
    if tau is None or not part.doubly_stochastic:
        return part.matrices().detach().clone()
    return part.at_temperature(tau).detach()


def sharpness(matrices: Tensor) -> Sharpness:
    """Measure a square matrix ``(N, N)``, or the mean over many, ``(n, N, N)``.

    Example:
        >>> eye = sharpness(torch.eye(4).flip(0))
        >>> eye.row_maximum, eye.row_entropy, eye.to_permutation, round(eye.to_flat, 4)
        (1.0, 0.0, 0.0, 0.866)
    """
    stack = matrices.detach().double().reshape(-1, *matrices.shape[-2:])
    stack = stack[evenly_spaced(len(stack), LARGEST_LOCAL)]
    size = stack.shape[-1]
    entropy = row_entropy(stack)
    return Sharpness(
        size=size,
        row_maximum=stack.amax(-1).mean().item(),
        row_entropy=None if entropy is None else entropy.mean().item(),
        to_permutation=distance(stack, torch.stack([_permutation(matrix) for matrix in stack])),
        to_flat=distance(stack, torch.full_like(stack, 1 / size)),
        row_error=(stack.sum(-1) - 1).abs().max().item(),
    )


def row_entropy(matrices: Tensor) -> Tensor | None:
    """Compute the entropy of every row, divided by that of a flat one; None if rows are no distributions."""
    if bool((matrices < -1e-6).any()) or bool(((matrices.sum(-1) - 1).abs() > 0.01).any()):
        return None
    entropy: Tensor = torch.special.entr(matrices.clamp(min=0)).sum(-1)
    return entropy / math.log(max(2, matrices.shape[-1]))


def distance(first: Tensor, second: Tensor) -> float:
    r"""Compute the mean over matrices of :math:`\|A - B\|_F / \sqrt{N}`."""
    difference = first.double() - second.double()
    norms: Tensor = torch.linalg.matrix_norm(difference) / math.sqrt(first.shape[-1])
    return norms.mean().item()


def relative_change(now: Tensor, before: Tensor) -> float:
    r"""Compute the norm of the difference divided by the norm of the start, :math:`\|A - A_0\|_F / \|A_0\|_F`."""
    change: Tensor = torch.linalg.norm(now - before) / torch.linalg.norm(before).clamp(min=1e-12)
    return change.item()


def moved_share(start: Tensor, trained: Tensor) -> float:
    r"""Compute the share of a matrix that moved: 0 for an equal one, 1 if every row's weight went elsewhere.

    .. math:: \frac{1}{N} \sum_i \frac{\|a_i - b_i\|_1}{\|a_i\|_1 + \|b_i\|_1}

    Rows that are distributions give half their L1 distance, which is their total variation distance.

    Shape:
        - start, trained: ``(N, M)``

    Example:
        >>> moved_share(torch.eye(4), torch.full((4, 4), 0.25)), moved_share(torch.eye(4), torch.eye(4).flip(0))
        (0.75, 1.0)
    """
    before, now = start.double(), trained.double()
    weight = before.abs().sum(-1) + now.abs().sum(-1)
    share: Tensor = (now - before).abs().sum(-1) / weight.clamp(min=1e-12)
    return share.mean().item()


def evenly_spaced(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``count`` indices, evenly spaced, with the first and the last.

    Example:
        >>> evenly_spaced(10, 4), evenly_spaced(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / max(1, most - 1)) for index in range(most)]


def parse_temperatures(text: str) -> list[float]:
    """Parse positive numbers separated by commas, largest first and without repetitions.

    Example:
        >>> parse_temperatures("0.1, 1,0.3")
        [1.0, 0.3, 0.1]
    """
    try:
        temperatures = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        temperatures = []
    if not temperatures or any(not 0 < value < math.inf for value in temperatures):
        raise UnimixerError(f"temperatures={text!r} must be numbers greater than 0 with commas between, such as 1,0.1")
    return sorted(set(temperatures), reverse=True)


def max_pooled(matrix: Tensor, most: int) -> Tensor:
    """Pool a matrix to at most ``most`` rows and columns; every square shows its strongest entry.

    Example:
        >>> max_pooled(torch.eye(4)[[1, 0, 3, 2]], most=2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    factor = -(-max(matrix.shape) // most)
    if factor == 1:
        return matrix
    high, low = (F.max_pool2d(sign * matrix[None], factor, ceil_mode=True)[0] for sign in (1, -1))
    return torch.where(high >= low, high, -low)


def _permutation(matrix: Tensor) -> Tensor:
    return ops.permutation_matrix(nearest_permutation(matrix)).to(matrix)
