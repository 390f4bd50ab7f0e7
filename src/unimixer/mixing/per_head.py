"""A matrix between tokens for every head: free as in MTmixAtt, or under the constraint of UniMixing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import check_choice, check_positive
from unimixer.mixing.constraint import Constraint
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.initialization import head_permutations, permutation_logits
from unimixer.mixing.learned import DEFAULT, ConstrainedGlobal

STARTS = ("orthogonal", "zero", "random")
CONSTRAINED_STARTS = ("rule", "identity", "random")


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


class ConstrainedHeads(ConstrainedGlobal):
    r"""A constrained matrix between blocks for every head, :math:`\bar W_h = \mathrm{Sinkhorn}(W_h / \tau)`.

    Source: the constraints of UniMixing (arXiv:2604.00590) on the matrices of heads; ours.

    Args:
        num_blocks: N.
        num_heads: H.
        init: ``"rule"``: head h of block n starts at head h of block :math:`(n + h) \bmod N`, of symmetric matrices
            :math:`(h - n) \bmod N`, so that with H = N every block gets one head of every block; ``"identity"``; or
            ``"random"``.
        scale: the raw value on the starting permutations, 0 elsewhere; or the standard deviation of random numbers.
        constraint: the constraint on every matrix.

    Shape:
        - blocks, values: ``(B, N, c)``, with c divisible by H; output: ``(B, N, c)``
        - parameter: ``logits`` ``(H, N, N)``

    Example:
        >>> heads = ConstrainedHeads(num_blocks=4, num_heads=2)
        >>> heads(torch.zeros(2, 4, 6), torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(
        self,
        num_blocks: int,
        num_heads: int,
        init: str = "rule",
        *,
        scale: float = 1.0,
        constraint: Constraint = DEFAULT,
    ) -> None:
        super().__init__(constraint)
        check_positive(num_blocks=num_blocks, num_heads=num_heads)
        check_choice("init", init, CONSTRAINED_STARTS)
        self.num_heads = num_heads
        if init == "random":
            start = torch.randn(num_heads, num_blocks, num_blocks) * scale
        else:
            orders = head_permutations(num_blocks, num_heads, symmetric=constraint.symmetric)
            if init == "identity":
                orders = torch.arange(num_blocks).expand_as(orders)
            start = permutation_logits(orders, scale)
        self.logits = nn.Parameter(start)

    @property
    def pattern(self) -> str:  # type: ignore[override]
        """The pattern in words."""
        return f"learned, {self.constraints()}, own for every head"

    def raw(self) -> Tensor:
        """The parameter."""
        return self.logits

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The constrained matrices ``(H, N, N)``."""
        return self.matrices()
