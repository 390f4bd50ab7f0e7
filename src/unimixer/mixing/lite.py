"""UniMixing-Lite: a shared basis for the local matrices, low rank for the global one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unimixer.errors import check_positive
from unimixer.mixing.constrained import ConstrainedMixing
from unimixer.mixing.start import block_permutation, low_rank_permutation

MARGIN = 1.2
"""Rule and identity starts: raw units, times ``init_scale``, between the permutation and the best other entry."""
NOISE = 0.02
"""Standard deviation of what a start from a permutation does not use; small, but free to learn."""


class UniMixingLite(ConstrainedMixing):
    r"""UniMixing with few parameters: :math:`2 N r + n_b b^2 + N n_b` instead of :math:`N^2 + N b^2`.

    .. math:: \bar W_G = \mathrm{Sinkhorn}(A_G B_G), \qquad
              \bar W_B^i = \mathrm{Sinkhorn}(\textstyle\sum_l \omega_l^i Z_l)

    arXiv:2604.00590, "UniMixing-Lite"; symmetry and temperature enter as in UniMixing. After Sinkhorn the global matrix
    is close to full rank again. The start from the rule is exact in a low rank, see
    :func:`unimixer.mixing.start.low_rank_permutation`, and the first basis matrix is a sharp identity.

    Args:
        length: T * D.
        block_size: width b of a block.
        rank: r; to start from a permutation of N blocks it must be at least 3.
        num_basis: number of basis matrices.
        num_heads: as in UniMixing.
        init: ``"rule"``, ``"identity"`` or ``"random"``.
        init_scale: multiplies the margin of a starting permutation, or is the standard deviation of random logits.
        temperature: 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        doubly_stochastic: constrain by Sinkhorn scaling.
        local: as in UniMixing; ``"shared"`` gives all blocks the same coefficients.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_left`` ``(N, r)``, ``global_right`` ``(r, N)``, ``basis`` ``(num_basis, b, b)``,
          ``coefficients`` ``(N, num_basis)``

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
        init: str = "rule",
        init_scale: float = 1.0,
        temperature: float = 0.1,
        symmetric: bool = True,
        doubly_stochastic: bool = True,
        local: str = "doubly_stochastic",
    ) -> None:
        super().__init__(
            length,
            block_size,
            temperature=temperature,
            symmetric=symmetric,
            doubly_stochastic=doubly_stochastic,
            local=local,
        )
        check_positive(rank=rank, num_basis=num_basis)
        self.rank, self.num_basis = rank, num_basis
        num_blocks, num_local = self.num_blocks_mixed, 1 if local == "shared" else self.num_blocks_mixed
        self.global_left = nn.Parameter(torch.empty(num_blocks, rank))
        self.global_right = nn.Parameter(torch.empty(rank, num_blocks))
        self.basis = nn.Parameter(torch.empty(num_basis, block_size, block_size))
        self.coefficients = nn.Parameter(torch.empty(num_local, num_basis))
        permutation = block_permutation(init, length, block_size, num_heads)
        with torch.no_grad():
            self._start(permutation, init_scale)

    def _start(self, permutation: Tensor | None, scale: float) -> None:
        if permutation is None:  # the product of two factors, and the sum over the basis, have standard deviation scale
            factor = math.sqrt(scale / math.sqrt(self.rank))
            self.global_left.normal_(std=factor)
            self.global_right.normal_(std=factor)
            self.basis.normal_(std=scale)
            self.coefficients.normal_(std=self.num_basis**-0.5)
        else:
            left, right = low_rank_permutation(permutation, self.rank, MARGIN * scale)
            for whole, used in ((self.global_left, left), (self.global_right.mT, right.mT)):
                whole.normal_(std=NOISE)
                whole[:, : used.shape[1]] = used
            self.basis.normal_(std=NOISE)
            self.coefficients.normal_(std=NOISE)
            self.basis[0] = torch.eye(self.block_size) * MARGIN * scale
            self.coefficients[:, 0] = 1.0
        if self.local == "free":
            self.basis[0] = torch.eye(self.block_size)
            self.coefficients[:, 0] = 1.0

    def raw_weights(self) -> tuple[Tensor, Tensor]:
        """The low-rank product and the sums over the basis."""
        with torch.autocast(self.basis.device.type, enabled=False):  # they go into an exponential
            return self.global_left @ self.global_right, torch.einsum("nl,lij->nij", self.coefficients, self.basis)

    @staticmethod
    def num_parameters(
        length: int, block_size: int, *, rank: int = 16, num_basis: int = 4, local: str = "doubly_stochastic"
    ) -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return 2 * num_blocks * rank + num_basis * block_size**2 + (1 if local == "shared" else num_blocks) * num_basis
