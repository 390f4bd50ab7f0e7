"""Plain Transformer: self-attention and an FFN, all weights shared over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from unimixer.backbones.attention import AttentionBackbone, AttentionOptions, AttentionSublayer
from unimixer.mixing import SharedLinear


@dataclass(frozen=True, kw_only=True)
class TransformerOptions(AttentionOptions):
    """Keyword arguments of :class:`Transformer`; their meaning is there."""

    residual: str = "pre"


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
        residual: ``"pre"``, ``"post"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> Transformer(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = TransformerOptions

    def build_block(self, options: TransformerOptions) -> tuple[nn.Module, nn.Module]:
        """Build the attention and the FFN of one block."""
        dim, hidden_dim = self.token_dim, options.hidden(self.token_dim)
        maps = [SharedLinear(self.num_tokens, dim, dim) for _ in range(4)]
        attention = AttentionSublayer(*maps, num_heads=options.num_heads)
        return attention, nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    @classmethod
    def around_ffn(cls, options: TransformerOptions, token_dim: float) -> float:
        r"""Q, K, V and O: :math:`4 D^2` a block."""
        return cls.count_blocks(options) * 4 * token_dim**2

    @classmethod
    def count_ffns(cls, options: TransformerOptions) -> int:
        """One a block."""
        return cls.count_blocks(options)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's :math:`4 D^2 + 2 D h + h + D` and its norms; T has no part in it."""
        return super().formula(**arguments)
