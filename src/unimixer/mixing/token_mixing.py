"""The rule of TokenMixer as a mixing: identity inside a block, a fixed permutation between blocks."""

from __future__ import annotations

from torch import Tensor

from unimixer import ops
from unimixer.errors import check_divisible, check_shape
from unimixer.mixing.base import Mixing


class TokenMixing(Mixing):
    r"""Parameter-free token mixing: output token :math:`h` gathers head :math:`h` of every input token.

    .. math:: s_h = [\, x_1^{(h)} \,\Vert\, \dots \,\Vert\, x_T^{(h)} \,], \qquad h = 1, \dots, H

    RankMixer (arXiv:2507.15551), "multi-head token mixing". Where ``H = T`` the operation is its own inverse.

    Shape:
        - x: ``(B, T, D)`` or ``(B, T * D)``, with D divisible by H
        - output: ``(B, H, T * D / H)``, hence ``(B, T, D)`` where ``H = T``; flat where x is flat

    Example:
        >>> mixing = TokenMixing(num_tokens=4, token_dim=6, num_heads=2)
        >>> mixing(torch.zeros(32, 4, 6)).shape
        torch.Size([32, 2, 12])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_heads: int | None = None) -> None:
        super().__init__(num_tokens * token_dim)
        self.num_heads = num_tokens if num_heads is None else num_heads
        self.num_tokens, self.token_dim = num_tokens, token_dim
        name = "num_heads=num_tokens" if num_heads is None else "num_heads"
        check_divisible("token_dim", token_dim, by=name, divisor=self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, flattened or not."""
        if x.dim() == 2:
            return super().forward(x)
        check_shape("tokens", x, (None, self.num_tokens, self.token_dim))
        return ops.token_mixing(x, self.num_heads)

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens."""
        return ops.token_mixing(x_BL.reshape(-1, self.num_tokens, self.token_dim), self.num_heads).flatten(1)

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The permutation matrix."""
        return ops.permutation_matrix(ops.token_mixing_permutation(self.num_tokens, self.token_dim, self.num_heads))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"num_tokens={self.num_tokens}, token_dim={self.token_dim}, num_heads={self.num_heads}"
