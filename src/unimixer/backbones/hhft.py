"""HHFT: heterogeneous attention layers and one layer of composite projections on top."""

from __future__ import annotations

from typing import Any

from unimixer.backbones.attention import Arguments, AttentionBackbone, check_sizes, hidden_width
from unimixer.backbones.hetero_attention import hetero_sublayer
from unimixer.backbones.hiformer import composite_parameters, composite_sublayer
from unimixer.blocks import build_ffn
from unimixer.errors import check_choice


class HHFT(AttentionBackbone):
    r"""Blocks of heterogeneous attention, then one block of HiFormer's attention for interactions of high order.

    HHFT (arXiv:2511.20235): features are grouped by meaning into tokens, encoded with projections and FFNs of every
    token's own (:class:`~unimixer.backbones.hetero_attention.HeteroAttention`), and a layer on top projects queries,
    keys and values from all tokens together (:class:`~unimixer.backbones.hiformer.HiFormer`). Block count, widths,
    heads, ranks and norms are not published: here two heterogeneous blocks, norms after every addition, one FFN width,
    low rank 64, or as wide as a token where the dial sets the width.

    Here a token is a piece of the embedding, whose order keeps features of one domain together, so that T is free;
    ``tokenizer: semantic`` groups by domain as the paper does (and adds a global token, which it does not have).

    Args:
        num_tokens: T.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: heterogeneous blocks; the one on top is not counted.
        num_heads: H.
        rank: of queries and keys of the top block; None for full matrices.
        value_rank: of its values (default: ``rank``).
        hidden_dim: hidden width of the FFNs (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"gelu"`` or ``"swiglu"``.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"`` or ``"siamese"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> HHFT(num_tokens=4, token_dim=16, rank=8)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        token_dim: int = 64,
        num_blocks: int = 2,
        num_heads: int = 4,
        rank: int | None = 64,
        value_rank: int | None = None,
        hidden_dim: int | None = None,
        expansion: float = 4.0,
        ffn: str = "gelu",
        norm: str = "layer",
        residual: str = "post",
    ) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)
        check_sizes(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks, num_heads=num_heads)
        check_choice("ffn", ffn, ("gelu", "swiglu"))
        hidden_dim = hidden_width(hidden_dim, expansion, token_dim)
        attentions = [hetero_sublayer(num_tokens, token_dim, num_heads) for _ in range(num_blocks)]
        attentions.append(composite_sublayer(num_tokens, token_dim, num_heads, rank=rank, value_rank=value_rank))
        blocks = [(attention, build_ffn(ffn, num_tokens, token_dim, hidden_dim)) for attention in attentions]
        self.stack = self.stacked(blocks, residual, norm)

    @classmethod
    def around_ffn(cls, given: Arguments, token_dim: float) -> float:
        """Q, K, V and O of every token, composite ones in the top block."""
        tokens, ranks = int(given["num_tokens"]), (given["rank"], given["value_rank"])
        per_token = tokens * token_dim**2
        return (
            int(given["num_blocks"]) * 4 * per_token
            + composite_parameters(tokens, tokens, token_dim, ranks)
            + per_token
        )

    @classmethod
    def count_blocks(cls, given: Arguments) -> int:
        """Heterogeneous blocks and the one on top."""
        return int(given["num_blocks"]) + 1

    @classmethod
    def follows(cls, size: float, given: Arguments) -> Arguments:
        """Ranks are as wide as a token."""
        return {"rank": size}

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Blocks of :math:`4 T D^2`; :math:`2 T D (2 r_k + r_v) + T D^2` for the top; T FFNs a block; norms."""
        return super().formula(**arguments)
