"""UniMixing-Lite: a shared basis for the local matrices, low rank for the global one."""

from __future__ import annotations

from torch import Tensor

from unimixer.errors import check_choice, check_divisible
from unimixer.mixing.initialization import block_permutation
from unimixer.mixing.learned import BasisLocal, LowRankGlobal
from unimixer.mixing.unified import MatrixMixing
from unimixer.mixing.unimixing import LOCALS


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

    def __init__(
        self,
        length: int,
        block_size: int,
        *,
        rank: int = 16,
        num_basis: int = 4,
        num_heads: int | None = None,
        init: str | Tensor = "rule",
        init_scale: float = 1.0,
        temperature: float = 0.1,
        symmetric: bool = True,
        doubly_stochastic: bool = True,
        local: str = "doubly_stochastic",
    ) -> None:
        check_divisible("length", length, by="block_size", divisor=block_size)
        check_choice("local", local, LOCALS)
        permutation = block_permutation(init, length, block_size, num_heads)
        num_blocks = length // block_size
        constraints = {"temperature": temperature, "symmetric": symmetric, "doubly_stochastic": doubly_stochastic}
        between = LowRankGlobal(num_blocks, rank, permutation, scale=init_scale, **constraints)  # type: ignore[arg-type]
        identity = permutation is not None
        inside = BasisLocal(
            num_blocks, block_size, num_basis, local, identity=identity, scale=init_scale, **constraints
        )
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(
        length: int, block_size: int, *, rank: int = 16, num_basis: int = 4, local: str = "doubly_stochastic"
    ) -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return 2 * num_blocks * rank + num_basis * block_size**2 + (1 if local == "shared" else num_blocks) * num_basis
