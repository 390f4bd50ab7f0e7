"""The rule of TokenMixer as a mixing: identity inside a block, a fixed permutation between blocks."""

from __future__ import annotations

from torch import Tensor

from unimixer import ops
from unimixer.errors import check_divisible, check_shape
from unimixer.mixing.global_patterns import Permutation
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.unified import Unified


class TokenMixing(Unified):
    r"""Parameter-free token mixing: output token :math:`h` gathers head :math:`h` of every input token.

    .. math:: s_h = [\, x_1^{(h)} \,\Vert\, \dots \,\Vert\, x_T^{(h)} \,], \qquad h = 1, \dots, H

    RankMixer (arXiv:2507.15551), "multi-head token mixing". One block is one head of one token, so there are T H of
    them. Where ``H = T`` the operation is its own inverse; in general it is undone by the mixing of H tokens of width
    T D / H with T heads, :meth:`inverse` ("revert" in TokenMixer-Large, arXiv:2602.06563).

    Args:
        num_tokens: T.
        token_dim: D.
        num_heads: H (default: T).

    Shape:
        - x: ``(B, T, D)`` or ``(B, T * D)``, with D divisible by H
        - output: ``(B, H, T * D / H)``, hence ``(B, T, D)`` where ``H = T``; flat where x is flat

    Example:
        >>> import torch
        >>> mixing = TokenMixing(num_tokens=4, token_dim=6, num_heads=2)
        >>> mixing(torch.zeros(32, 4, 6)).shape
        torch.Size([32, 2, 12])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_heads: int | None = None) -> None:
        heads = num_tokens if num_heads is None else num_heads
        name = "num_heads=num_tokens" if num_heads is None else "num_heads"
        check_divisible("token_dim", token_dim, by=name, divisor=heads)
        slices = ops.token_mixing_permutation(num_tokens, heads, heads)
        super().__init__(IdentityLocal(num_tokens * heads, token_dim // heads), Permutation(slices))
        self.num_tokens, self.token_dim, self.num_heads = num_tokens, token_dim, heads

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, flattened or not."""
        if x.dim() == 2:
            return super().forward(x)
        check_shape("tokens", x, (None, self.num_tokens, self.token_dim))
        return ops.token_mixing(x, self.num_heads)

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens."""
        return ops.token_mixing(x_BL.reshape(-1, self.num_tokens, self.token_dim), self.num_heads).flatten(1)

    def normed_sum(self, tokens: Tensor, norm: ops.Norm) -> Tensor:
        """The norm of the tokens plus :meth:`forward` of them, with as many heads as tokens."""
        check_shape("tokens", tokens, (None, self.num_heads, self.token_dim))
        return ops.mixed_norm(tokens, None, norm)

    def inverse(self) -> TokenMixing:
        """The mixing that puts every number back: ``mixing.inverse()(mixing(x)) == x``."""
        return TokenMixing(self.num_heads, self.length // self.num_heads, self.num_tokens)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"num_tokens={self.num_tokens}, token_dim={self.token_dim}, num_heads={self.num_heads}"
