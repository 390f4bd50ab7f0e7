"""Doubly stochastic matrices between blocks that few numbers generate, exactly and without an iteration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing.constraint import Constraint
from unimixer.mixing.learned import ConstrainedGlobal

SEED = 0
"""Seed of the permutations; models of equal sizes have the same, whatever their own seed."""


class Generated(ConstrainedGlobal):
    """Base of matrices between blocks that follow from a few numbers and a permutation.

    Args:
        around: the permutation of the blocks, ``(N,)``.
        scale: the number on the permutation where the matrix starts there, or the deviation of random numbers.
        drawn: start from random numbers.
        constraint: the constraint; its kind names the class.
    """

    logits: nn.Parameter
    around: Tensor
    form: str
    """How numbers generate the matrix, in words."""

    def __init__(self, around: Tensor, constraint: Constraint) -> None:
        super().__init__(constraint, around)
        self.num_blocks = around.numel()

    @property
    def pattern(self) -> str:  # type: ignore[override]
        """The pattern in words."""
        return f"learned, {self.constraints()}, {self.form}"

    def raw(self) -> Tensor:
        """The numbers."""
        return self.logits

    def symmetric_raw(self) -> Tensor:
        """The numbers; every value of them gives a symmetric matrix where it has to be."""
        return self.logits


class PermutationSum(Generated):
    r"""A convex sum of K permutations.

    .. math:: W = \sum_{k=0}^{K-1} \mathrm{softmax}(l / \tau)_k\, P_k

    :math:`P_0` is the starting permutation, the others are drawn: where the matrix has to be symmetric, permutations
    that exchange the blocks in pairs.

    Source: ours; that such sums are the doubly stochastic matrices is the theorem of Birkhoff and von Neumann.

    Args:
        around: :math:`P_0`, ``(N,)``.
        num_permutations: K.
        drawn: start from random numbers l, and not from :math:`P_0`.
        scale: the number :math:`l_0` at the start, or the standard deviation of random ones.
        constraint: with the temperature :math:`\tau`.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> constraint = Constraint(kind="permutations")
        >>> between = PermutationSum(torch.arange(4), 3, drawn=False, scale=1.0, constraint=constraint)
        >>> bool((between.matrices().sum(0) - 1).abs().max() < 1e-6), between.logits.numel()
        (True, 3)
    """

    permutations: Tensor

    def __init__(
        self, around: Tensor, num_permutations: int, *, drawn: bool, scale: float, constraint: Constraint
    ) -> None:
        super().__init__(around, constraint)
        check_positive(num_permutations=num_permutations)
        others = drawn_permutations(self.num_blocks, num_permutations - 1, pairs=constraint.symmetric)
        self.register_buffer(
            "permutations", torch.cat([around.unsqueeze(0), others.to(around.device)]), persistent=False
        )
        self.form = f"a sum of {num_permutations} permutations"
        logits = torch.zeros(num_permutations)
        if drawn:
            logits.normal_(std=scale)
        else:
            logits[0] = scale
        self.logits = nn.Parameter(logits)

    def _constrain(self, raw: Tensor, tau: Tensor | None = None) -> Tensor:
        weights = (raw / (self.temperature if tau is None else tau)).softmax(0)
        return self._gated(ops.permutation_sum(weights, self.permutations))


class KroneckerGlobal(Generated):
    r"""Kronecker products of 2 x 2 matrices on both sides of the starting permutation P.

    .. math:: W = K P K', \qquad K = \bigotimes_{m=1}^{\log_2 N}
              \begin{pmatrix} a_m & 1 - a_m \\ 1 - a_m & a_m \end{pmatrix}, \qquad a = \sigma(l / \tau)

    Where the matrix has to be symmetric, :math:`K' = K` and :math:`\log_2 N` numbers generate it, else twice as many.
    N is a power of two.

    Source: ours; Kronecker products of doubly stochastic matrices are doubly stochastic.

    Args:
        around: P, ``(N,)``.
        drawn: start from random numbers l, and not from P.
        scale: the numbers at the start, or the standard deviation of random ones.
        constraint: with the temperature :math:`\tau`.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> constraint = Constraint(kind="kronecker")
        >>> between = KroneckerGlobal(torch.arange(8), drawn=True, scale=1.0, constraint=constraint)
        >>> bool((between.matrices().sum(1) - 1).abs().max() < 1e-5), between.logits.numel()
        (True, 3)
    """

    form = "a Kronecker product"

    def __init__(self, around: Tensor, *, drawn: bool, scale: float, constraint: Constraint) -> None:
        super().__init__(around, constraint)
        start = torch.full((1 if constraint.symmetric else 2, kronecker_bits(self.num_blocks)), scale)
        self.logits = nn.Parameter(start.normal_(std=scale) if drawn else start)

    def _constrain(self, raw: Tensor, tau: Tensor | None = None) -> Tensor:
        share = (raw / (self.temperature if tau is None else tau)).sigmoid()
        eye = torch.eye(self.num_blocks, dtype=share.dtype, device=share.device)
        right = ops.kronecker_multiply(share[-1], eye)
        product = ops.kronecker_multiply(share[0], right[self.around])
        return self._gated((product + product.mT) / 2 if self.symmetric else product)


def generated(
    around: Tensor, num_permutations: int, *, drawn: bool, scale: float, constraint: Constraint
) -> ConstrainedGlobal:
    """Build the matrix that a constraint names."""
    if constraint.kind == "kronecker":
        return KroneckerGlobal(around, drawn=drawn, scale=scale, constraint=constraint)
    return PermutationSum(around, num_permutations, drawn=drawn, scale=scale, constraint=constraint)


def generated_parameters(num_blocks: int, num_permutations: int, constraint: Constraint) -> int:
    """Count the parameters of such a matrix, without its gate."""
    if constraint.kind == "permutations":
        return num_permutations
    return kronecker_bits(num_blocks) * (1 if constraint.symmetric else 2)


def kronecker_bits(num_blocks: int) -> int:
    """Return log2 N, or raise where N is no power of two."""
    bits = num_blocks.bit_length() - 1
    if num_blocks != 2**bits:
        raise UnimixerError(
            f"constraint='kronecker' needs a power of two as number of blocks, num_tokens * token_dim / "
            f"block_size, and it is {num_blocks}; choose another block_size or num_tokens"
        )
    return bits


def drawn_permutations(size: int, count: int, *, pairs: bool) -> Tensor:
    """Draw permutations ``(count, size)``; ``pairs``: each exchanges numbers in pairs, so it is its own inverse.

    Example:
        >>> drawn = drawn_permutations(5, 3, pairs=True)
        >>> torch.equal(drawn.gather(1, drawn), torch.arange(5).expand(3, 5))
        True
    """
    generator = torch.Generator().manual_seed(SEED)
    rows = [torch.randperm(size, generator=generator, device="cpu") for _ in range(count)]
    if pairs:
        for index, order in enumerate(rows):
            even = size // 2 * 2
            exchanged = torch.arange(size, device="cpu")
            exchanged[order[:even]] = order[:even].view(-1, 2).flip(1).flatten()
            rows[index] = exchanged
    return torch.stack(rows) if rows else torch.empty(0, size, dtype=torch.long, device="cpu")
