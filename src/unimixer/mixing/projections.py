"""A learned number of rows from all tokens: linear compression as a mixing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import check_positive, check_shape
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.unified import Unified


class RectangularGlobal(Global):
    """A learned matrix without constraints that gives another number of blocks, ``(M, N)``."""

    pattern = "learned, unconstrained, rectangular"

    def __init__(self, num_blocks: int, num_outputs: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, num_outputs=num_outputs)
        bound = num_blocks**-0.5
        self.weight = nn.Parameter(torch.empty(num_outputs, num_blocks).uniform_(-bound, bound))

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The matrix."""
        return self.weight.unsqueeze(0)


class Compression(Unified):
    r"""Linear combinations of the tokens, :math:`W_L X`, without bias or nonlinearity.

    Wukong (arXiv:2403.02545), "linear compression block", and the linear shortcut of stacks whose number of rows
    changes. In the unified form: the identity inside blocks, a rectangular matrix between them.

    Args:
        num_tokens: N.
        token_dim: b.
        num_outputs: M.

    Shape:
        - x: ``(B, N, b)`` or ``(B, N b)``; output: ``(B, M, b)`` or ``(B, M b)``

    Example:
        >>> Compression(num_tokens=4, token_dim=6, num_outputs=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 3, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_outputs: int) -> None:
        super().__init__(IdentityLocal(num_tokens, token_dim), RectangularGlobal(num_tokens, num_outputs))
        self.out_blocks = num_outputs

    def forward(self, x: Tensor) -> Tensor:
        """Combine tokens; given as tokens, by one product."""
        if x.dim() == 2:
            return super().forward(x)
        check_shape("tokens", x, (None, self.num_blocks_mixed, self.block_size))
        weight: Tensor = self.global_.weight  # type: ignore[assignment]
        return weight.to(x.dtype) @ x
