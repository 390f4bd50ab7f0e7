"""UniMixing with full matrices, and UniMixing-Lite with a shared basis and a low rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unimixer.errors import check_choice, check_divisible
from unimixer.mixing.constrained import Constraint
from unimixer.mixing.initialization import block_permutation
from unimixer.mixing.learned import BasisLocal, DoublyStochasticLocal, LearnedGlobal, LowRankGlobal
from unimixer.mixing.unified import MatrixMixing

LOCALS = ("doubly_stochastic", "shared", "free")


@dataclass(frozen=True)
class UniMixingOptions:
    """Keyword arguments of :class:`UniMixing`; their meaning is there."""

    num_heads: int | None = None
    init: str | Tensor = "rule"
    init_scale: float = 1.0
    temperature: float = 0.1
    symmetric: bool = True
    doubly_stochastic: bool = True
    local: str = "doubly_stochastic"

    @property
    def constraint(self) -> Constraint:
        """The constraint on the matrices."""
        return Constraint(self.temperature, self.symmetric, self.doubly_stochastic)

    def permutation(self, length: int, block_size: int) -> Tensor | None:
        """The permutation of the blocks that the mixing starts from, None for random; raises for invalid sizes."""
        check_divisible("length", length, by="block_size", divisor=block_size)
        check_choice("local", self.local, LOCALS)
        return block_permutation(self.init, length, block_size, self.num_heads)


@dataclass(frozen=True)
class UniMixingLiteOptions(UniMixingOptions):
    """Keyword arguments of :class:`UniMixingLite`; their meaning is there."""

    rank: int = 16
    num_basis: int = 4


class UniMixing(MatrixMixing):
    r"""Learned token mixing: a matrix inside every block, then one matrix between the blocks.

    .. math:: out = \bar W_G\, [x_1 \bar W_B^1; \dots; x_N \bar W_B^N]

    arXiv:2604.00590, "UniMixing". The paper is silent on the start: ``init="rule"`` starts from the permutation of
    TokenMixer (symmetric, since H = T there), ``"identity"`` from no mixing, ``"random"`` from normal numbers, and a
    tensor from that permutation of the blocks; one that is not its own inverse needs ``symmetric=False``.

    Args:
        length: T * D.
        block_size: width b of a block; with ``init="rule"`` it must divide a head, ``length / num_heads**2``.
        num_heads: heads of the rule, that is the number of tokens; needed by ``init="rule"`` only.
        init_scale: the raw value on the starting permutation (0 elsewhere), or the standard deviation of random raw
            values. What matters is ``init_scale / temperature``: it is what exp() gets.
        temperature: 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        doubly_stochastic: constrain by Sinkhorn scaling; without it raw matrices mix, and temperature has no effect.
        local: ``"doubly_stochastic"``: one matrix a block, constrained like the global one; ``"shared"``: one matrix
            for all blocks, likewise; ``"free"``: one matrix a block, unconstrained.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_.logits`` ``(N, N)``; ``local.logits`` ``(N, b, b)``, ``(1, b, b)`` where shared

    Example:
        >>> mixing = UniMixing(length=4 * 16, block_size=2, num_heads=4)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(self, length: int, block_size: int, **options: Any) -> None:
        chosen = UniMixingOptions(**options)
        permutation = chosen.permutation(length, block_size)
        num_blocks, scale, constraint = length // block_size, chosen.init_scale, chosen.constraint
        between = LearnedGlobal(num_blocks, permutation, scale=scale, constraint=constraint)
        identity = permutation is not None
        inside = DoublyStochasticLocal(
            num_blocks, block_size, chosen.local, identity=identity, scale=scale, constraint=constraint
        )
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(length: int, block_size: int, *, local: str = "doubly_stochastic") -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return num_blocks**2 + (1 if local == "shared" else num_blocks) * block_size**2


class UniMixingLite(MatrixMixing):
    r"""UniMixing with few parameters: :math:`2 N r + n_b b^2 + N n_b` instead of :math:`N^2 + N b^2`.

    .. math:: \bar W_G = \mathrm{Sinkhorn}(A_G B_G), \qquad
              \bar W_B^i = \mathrm{Sinkhorn}(\textstyle\sum_l \omega_l^i Z_l)

    arXiv:2604.00590, "UniMixing-Lite"; symmetry and temperature enter as in UniMixing.

    Args:
        length: T * D.
        block_size: width b of a block.
        rank: r; to start from a permutation of N blocks it must be at least 3.
        num_basis: number of basis matrices.
        num_heads: as in UniMixing.
        init: ``"rule"``, ``"identity"``, ``"random"``, or a permutation of the blocks.
        init_scale: multiplies the margin of a starting permutation, or is the standard deviation of random logits.
        temperature: 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        doubly_stochastic: constrain by Sinkhorn scaling.
        local: as in UniMixing; ``"shared"`` gives all blocks the same coefficients.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_.left`` ``(N, r)``, ``global_.right`` ``(r, N)``, ``local.basis`` ``(num_basis, b, b)``,
          ``local.coefficients`` ``(N, num_basis)``

    Example:
        >>> mixing = UniMixingLite(length=4 * 16, block_size=2, rank=8, num_basis=2, num_heads=4)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(self, length: int, block_size: int, **options: Any) -> None:
        chosen = UniMixingLiteOptions(**options)
        permutation = chosen.permutation(length, block_size)
        num_blocks, scale, constraint = length // block_size, chosen.init_scale, chosen.constraint
        between = LowRankGlobal(num_blocks, chosen.rank, permutation, scale=scale, constraint=constraint)
        sizes = (num_blocks, block_size, chosen.num_basis)
        identity = permutation is not None
        inside = BasisLocal(*sizes, chosen.local, identity=identity, scale=scale, constraint=constraint)
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(
        length: int, block_size: int, *, rank: int = 16, num_basis: int = 4, local: str = "doubly_stochastic"
    ) -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return 2 * num_blocks * rank + num_basis * block_size**2 + (1 if local == "shared" else num_blocks) * num_basis
