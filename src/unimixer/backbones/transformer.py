"""Plain Transformer: self-attention and an FFN, all weights shared over tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from unimixer.backbones.attention import (
    Arguments,
    AttentionBackbone,
    AttentionSublayer,
    check_sizes,
    hidden_width,
)
from unimixer.mixing import SharedLinear


class Transformer(AttentionBackbone):
    r"""A stack of multi-head self-attention and a GELU FFN with the same weights for all tokens.

    .. math:: Z = X + \mathrm{MHSA}(\mathrm{LN}(X)), \qquad X' = Z + \mathrm{FFN}(\mathrm{LN}(Z)), \qquad
              A = \mathrm{softmax}(q\, k^\top / \sqrt{D / H})

    arXiv:1706.03762, with the norms before the sublayers, as public ranking code has it. No positions and no biases in
    attention: without them, permuted tokens give permuted outputs, and only the tokenizer tells fields apart. "Group
    Transformer" in the tables of TokenMixer-Large (arXiv:2602.06563) is attention over tokens of groups of features, of
    which no more is said: this model with ``tokenizer: semantic`` is our reading of it.

    Args:
        num_tokens: T.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: blocks of one attention and one FFN.
        num_heads: H.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"pre"``, ``"post"`` or ``"siamese"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> Transformer(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        token_dim: int = 64,
        num_blocks: int = 2,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        expansion: float = 4.0,
        norm: str = "layer",
        residual: str = "pre",
    ) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)
        check_sizes(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks, num_heads=num_heads)
        hidden_dim = hidden_width(hidden_dim, expansion, token_dim)

        def linear() -> SharedLinear:
            return SharedLinear(num_tokens, token_dim, token_dim)

        blocks = [
            (
                AttentionSublayer(linear(), linear(), linear(), linear(), num_heads=num_heads),
                nn.Sequential(nn.Linear(token_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, token_dim)),
            )
            for _ in range(num_blocks)
        ]
        self.stack = self.stacked(blocks, residual, norm)

    @classmethod
    def around_ffn(cls, given: Arguments, token_dim: float) -> float:
        r"""Q, K, V and O: :math:`4 D^2` a block."""
        return cls.count_blocks(given) * 4 * token_dim**2

    @classmethod
    def count_ffns(cls, given: Arguments) -> int:
        """One a block."""
        return cls.count_blocks(given)

    @classmethod
    def ffn_maps(cls, given: Arguments) -> int:
        """Two."""
        return 2

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's :math:`4 D^2 + 2 D h + h + D` and its norms; T has no part in it."""
        return super().formula(**arguments)
