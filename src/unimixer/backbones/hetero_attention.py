"""Heterogeneous attention: queries, keys, values, outputs and FFNs of every token's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from unimixer.backbones.attention import AttentionBackbone, AttentionSublayer, GatedAttentionOptions
from unimixer.errors import check_choice
from unimixer.mixing import BlockLinear

VALUE_WIDTHS = ("split", "full")


@dataclass(frozen=True, kw_only=True)
class HeteroAttentionOptions(GatedAttentionOptions):
    """Keyword arguments of :class:`HeteroAttention`; their meaning is there."""

    value_width: str = "split"


class HeteroAttention(AttentionBackbone):
    r"""Self-attention in which every token has its own projections, and per-token FFNs.

    .. math:: q_i^h = x_i Q_i^h, \quad k_j^h = x_j K_j^h, \quad v_j^h = x_j V_j^h, \qquad
              A^h = \mathrm{softmax}(q^h k^{h\top} / \sqrt{D / H}), \qquad
              y_i = \Big[ \sum_j A^1_{ij} v_j^1 \,\Vert\, \dots \Big] O_i

    The first step of HiFormer (arXiv:2311.05884), "heterogeneous attention": each pair of fields meets through a matrix
    of its own, :math:`Q_i K_j^\top`. The paper's norms are not known to us; the default is to normalise after every
    addition, as the baseline of arXiv:2604.00590 does in public code. That baseline also has values of the full width D
    in every head, a SwiGLU and a token that is read out: ``value_width="full", ffn="swiglu"`` here, and the mean of
    all tokens as for every other model.

    Here T is the comparison's own and a token is a piece of the embedding; ``tokenizer: field`` gives the paper's one
    token a field.

    Args:
        num_tokens: T.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: blocks of one attention and one FFN.
        num_heads: H.
        value_width: ``"split"``: values of D / H a head; ``"full"``: of D a head.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"gelu"`` or ``"swiglu"``.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> HeteroAttention(num_tokens=4, token_dim=16, value_width="full")(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = HeteroAttentionOptions

    def check(self, options: HeteroAttentionOptions) -> None:
        """Raise for options that do not fit."""
        check_choice("value_width", options.value_width, VALUE_WIDTHS)
        super().check(options)

    def build_block(self, options: HeteroAttentionOptions) -> tuple[nn.Module, nn.Module]:
        """Build the attention and the FFN of one block."""
        full = options.value_width == "full"
        attention = hetero_sublayer(self.num_tokens, self.token_dim, options.num_heads, full=full)
        return attention, self.build_ffn(options)

    @classmethod
    def around_ffn(cls, options: HeteroAttentionOptions, token_dim: float) -> float:
        """Q, K, V and O of every token in every block."""
        full = options.value_width == "full"
        per_token = (2 + 2 * (options.num_heads if full else 1)) * token_dim**2
        return float(cls.count_blocks(options) * options.num_tokens * per_token)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's :math:`4 T D^2`, or :math:`T (2 D^2 + 2 H D^2)` with full values; T FFNs; norms."""
        return super().formula(**arguments)


def hetero_sublayer(num_tokens: int, token_dim: int, num_heads: int, *, full: bool = False) -> AttentionSublayer:
    """Attention with projections of every token's own; ``full`` gives every head values of width D."""
    values = token_dim * (num_heads if full else 1)
    return AttentionSublayer(
        BlockLinear(num_tokens, token_dim, token_dim),
        BlockLinear(num_tokens, token_dim, token_dim),
        BlockLinear(num_tokens, token_dim, values),
        BlockLinear(num_tokens, values, token_dim),
        num_heads=num_heads,
    )
