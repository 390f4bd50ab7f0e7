"""A free matrix between tokens for every head: the global pattern of MTmixAtt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import check_choice, check_positive
from unimixer.mixing.global_patterns import Global

STARTS = ("orthogonal", "zero", "random")


class PerHeadGlobal(Global):
    r"""A learned matrix :math:`M_h` between blocks for every head, without constraints.

    .. math:: y^h = M_h\, x^h, \qquad h = 1, \dots, H

    MTmixAtt (arXiv:2510.15286), "learned mixing": head h of every output block is a sum of the heads h of all blocks.
    The paper adds :math:`x^h`; here that is the residual around the mixing.

    Args:
        num_blocks: N.
        num_heads: H.
        init: ``"orthogonal"`` (the best in the paper), ``"zero"`` or ``"random"`` (uniform by fan-in).

    Shape:
        - blocks, values: ``(B, N, c)``, with c divisible by H; output: ``(B, N, c)``
        - parameter: ``weight`` ``(H, N, N)``

    Example:
        >>> from unimixer.mixing import IdentityLocal, Unified
        >>> Unified(IdentityLocal(4, 6), PerHeadGlobal(4, num_heads=3))(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    pattern = "learned, unconstrained, own for every head"
    learned = True

    def __init__(self, num_blocks: int, num_heads: int, init: str = "orthogonal") -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, num_heads=num_heads)
        check_choice("init", init, STARTS)
        self.num_heads = num_heads
        self.weight = nn.Parameter(torch.zeros(num_heads, num_blocks, num_blocks))
        if init == "orthogonal":
            for matrix in self.weight:
                nn.init.orthogonal_(matrix)
        elif init == "random":
            nn.init.uniform_(self.weight, -(num_blocks**-0.5), num_blocks**-0.5)

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The matrices."""
        return self.weight
