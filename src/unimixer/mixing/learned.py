"""The learned patterns of UniMixing and UniMixing-Lite, under their constraints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unimixer.errors import check_positive
from unimixer.mixing.constrained import Constrained
from unimixer.mixing.constraint import Constraint
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.initialization import low_rank_permutation, permutation_logits
from unimixer.mixing.local_patterns import Local

DEFAULT = Constraint()
MARGIN = 1.2
"""Low-rank starts: raw units, times ``scale``, between the permutation and the best other entry."""
NOISE = 0.02
"""Standard deviation of what a low-rank start from a permutation does not use; small, but free to learn."""


class ConstrainedGlobal(Constrained, Global):
    """Base of learned matrices between blocks."""

    rank: int | None = None

    @property
    def pattern(self) -> str:  # type: ignore[override]
        """The pattern in words."""
        size = "full" if self.rank is None else "low rank"
        return f"learned, {self.constraints()}, {size}"

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The constrained matrix ``(1, N, N)``."""
        return self.matrices().unsqueeze(0)


class LearnedGlobal(ConstrainedGlobal):
    r"""A full matrix between blocks, :math:`\bar W_G = \mathrm{Sinkhorn}(W_G / \tau)`: UniMixing.

    arXiv:2604.00590, "UniMixing".

    Args:
        num_blocks: N.
        permutation: where to start, out block i = block ``permutation[i]``; None for random numbers.
        scale: the raw value on the permutation, 0 elsewhere; or the standard deviation of random numbers; or the factor
            of an orthogonal matrix.
        constraint: the constraint on the matrix.
        around: see :class:`~unimixer.mixing.Constrained`.
        orthogonal: draw a random orthogonal matrix instead of random numbers.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> between = LearnedGlobal(4, torch.tensor([1, 0, 3, 2]))
        >>> between.matrices().argmax(1).tolist()
        [1, 0, 3, 2]
    """

    def __init__(
        self,
        num_blocks: int,
        permutation: Tensor | None = None,
        *,
        scale: float = 1.0,
        constraint: Constraint = DEFAULT,
        around: Tensor | None = None,
        orthogonal: bool = False,
    ) -> None:
        super().__init__(constraint, around)
        start = torch.empty(num_blocks, num_blocks)
        if orthogonal:
            nn.init.orthogonal_(start, gain=scale)
        elif permutation is None:
            start.normal_(std=scale)
        elif constraint.kind == "orthogonal":
            start.zero_()  # Cayley's transform of zeros is the unit matrix
        else:
            start = permutation_logits(permutation, scale)
        self.logits = nn.Parameter(start)

    def raw(self) -> Tensor:
        """The parameter."""
        return self.logits


class LowRankGlobal(ConstrainedGlobal):
    r"""A matrix between blocks from two thin ones, :math:`\mathrm{Sinkhorn}(A B / \tau)`: UniMixing-Lite.

    After Sinkhorn the matrix is close to full rank again. The start from a permutation is exact in a low rank, see
    :func:`unimixer.mixing.initialization.low_rank_permutation`.

    arXiv:2604.00590, "UniMixing-Lite".

    Args:
        num_blocks: N.
        rank: r; to start from a permutation at least 3.
        permutation: as in :class:`LearnedGlobal`, like the constraint and ``around``.
        scale: multiplies the margin of a starting permutation, or is the standard deviation of random logits.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> between = LowRankGlobal(8, rank=4, permutation=torch.arange(8).flip(0))
        >>> between.matrices().argmax(1).tolist(), between.left.numel() + between.right.numel()
        ([7, 6, 5, 4, 3, 2, 1, 0], 64)
    """

    def __init__(
        self,
        num_blocks: int,
        rank: int,
        permutation: Tensor | None = None,
        *,
        scale: float = 1.0,
        constraint: Constraint = DEFAULT,
        around: Tensor | None = None,
    ) -> None:
        super().__init__(constraint, around)
        check_positive(rank=rank)
        self.rank = rank
        self.left = nn.Parameter(torch.empty(num_blocks, rank))
        self.right = nn.Parameter(torch.empty(rank, num_blocks))
        # the product of random factors has standard deviation `scale`
        std = math.sqrt(scale / math.sqrt(rank)) if permutation is None else NOISE
        with torch.no_grad():
            self.left.normal_(std=std)
            if permutation is None or constraint.kind == "orthogonal":
                self.right.normal_(std=std)
            else:
                left, right = low_rank_permutation(permutation, rank, MARGIN * scale)
                self.right.mT.normal_(std=std)
                self.left[:, : left.shape[1]] = left
                self.right[: right.shape[0]] = right

    def raw(self) -> Tensor:
        """The product of the factors."""
        with torch.autocast(self.left.device.type, enabled=False):  # it goes into an exponential
            return self.left @ self.right


class _ConstrainedLocal(Constrained, Local):
    kind: str

    def __init__(self, num_blocks: int, block_size: int, kind: str, constraint: Constraint) -> None:
        free = Constraint(constraint.temperature, symmetric=False, kind="free")
        constraint = free if kind == "free" else constraint.inside
        super().__init__(constraint, None if constraint.gate is None else torch.arange(block_size))
        self.num_blocks, self.in_dim, self.out_dim, self.kind = num_blocks, block_size, block_size, kind
        self.num_matrices = 1 if kind == "shared" else num_blocks

    @property
    def pattern(self) -> str:  # type: ignore[override]
        """The pattern in words."""
        return f"{self.constraints()}, {'shared' if self.kind == 'shared' else 'own for every block'}"


class DoublyStochasticLocal(_ConstrainedLocal):
    r"""A constrained matrix for every block, :math:`\bar W_B^i = \mathrm{Sinkhorn}(W_B^i / \tau)`: UniMixing.

    arXiv:2604.00590, "UniMixing".

    Args:
        num_blocks: N.
        block_size: b.
        kind: ``"doubly_stochastic"``: one matrix a block; ``"shared"``: one for all; ``"free"``: one a block, without
            constraints.
        identity: start from the identity, else from random numbers.
        scale: the raw value on the diagonal, or the standard deviation of random numbers.
        constraint: the constraint on every matrix.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, b)``

    Example:
        >>> DoublyStochasticLocal(4, 2).matrices().shape, DoublyStochasticLocal(4, 2, "shared").matrices().shape
        (torch.Size([4, 2, 2]), torch.Size([1, 2, 2]))
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        kind: str = "doubly_stochastic",
        *,
        identity: bool = True,
        scale: float = 1.0,
        constraint: Constraint = DEFAULT,
    ) -> None:
        super().__init__(num_blocks, block_size, kind, constraint)
        start = torch.empty(self.num_matrices, block_size, block_size)
        if kind == "free":  # not a logit: the identity itself
            start.copy_(torch.eye(block_size))
        elif identity:  # its skew part is zero, which Cayley's transform takes to the identity
            start.copy_(torch.eye(block_size) * scale)
        else:
            start.normal_(std=scale)
        self.logits = nn.Parameter(start)

    def raw(self) -> Tensor:
        """The parameter."""
        return self.logits


class BasisLocal(_ConstrainedLocal):
    r"""Matrices from a shared basis, :math:`\mathrm{Sinkhorn}(\sum_l \omega_l^i Z_l / \tau)`: UniMixing-Lite.

    The first basis matrix starts as a sharp identity.

    arXiv:2604.00590, "UniMixing-Lite".

    Args:
        num_blocks: N.
        block_size: b.
        num_basis: basis matrices.
        kind: as in :class:`DoublyStochasticLocal`; ``"shared"`` gives all blocks the same coefficients.
        identity: start from the identity, else from random numbers.
        scale: multiplies the margin of the identity, or is the standard deviation of random sums.
        constraint: the constraint on every matrix.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, b)``

    Example:
        >>> inside = BasisLocal(16, 2, num_basis=3)
        >>> inside(torch.zeros(1, 16, 2)).shape, inside.basis.numel() + inside.coefficients.numel()
        (torch.Size([1, 16, 2]), 60)
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_basis: int,
        kind: str = "doubly_stochastic",
        *,
        identity: bool = True,
        scale: float = 1.0,
        constraint: Constraint = DEFAULT,
    ) -> None:
        super().__init__(num_blocks, block_size, kind, constraint)
        check_positive(num_basis=num_basis)
        self.basis = nn.Parameter(torch.empty(num_basis, block_size, block_size))
        self.coefficients = nn.Parameter(torch.empty(self.num_matrices, num_basis))
        with torch.no_grad():
            self.basis.normal_(std=NOISE if identity else scale)
            self.coefficients.normal_(std=NOISE if identity else num_basis**-0.5)
            if identity or kind == "free":
                self.basis[0] = torch.eye(block_size) * (1.0 if kind == "free" else MARGIN * scale)
                self.coefficients[:, 0] = 1.0

    @property
    def pattern(self) -> str:  # type: ignore[override]
        """The pattern in words."""
        return f"{super().pattern}, composed of a shared basis"

    def raw(self) -> Tensor:
        """The sums over the basis."""
        with torch.autocast(self.basis.device.type, enabled=False):  # they go into an exponential
            return torch.einsum("nl,lij->nij", self.coefficients, self.basis)
