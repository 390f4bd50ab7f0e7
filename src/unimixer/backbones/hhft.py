"""HHFT: heterogeneous attention layers and one layer of composite projections on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unimixer.backbones.attention import AttentionBackbone, GatedAttentionOptions
from unimixer.backbones.hetero_attention import hetero_sublayer
from unimixer.backbones.hiformer import composite_parameters, composite_sublayer


@dataclass(frozen=True, kw_only=True)
class HHFTOptions(GatedAttentionOptions):
    """Keyword arguments of :class:`HHFT`; their meaning is there."""

    rank: int | None = 64
    value_rank: int | None = None


class HHFT(AttentionBackbone):
    r"""Blocks of heterogeneous attention, then one block of HiFormer's attention for interactions of high order.

    HHFT (arXiv:2511.20235): features are grouped by meaning into tokens, encoded with projections and FFNs of every
    token's own (:class:`~unimixer.backbones.hetero_attention.HeteroAttention`), and a layer on top projects queries,
    keys and values from all tokens together (:class:`~unimixer.backbones.hiformer.HiFormer`). Block count, widths,
    heads, ranks and norms are not published: here two heterogeneous blocks, norms after every addition, one FFN width,
    low rank 64, or as wide as a token where ``width`` sets all sizes.

    Here a token is a piece of the embedding, whose order keeps features of one domain together, so that T is free;
    ``tokenizer: semantic`` groups by domain as the paper does (and adds a global token, which it does not have).

    .. math:: X_{l+1} = \mathrm{HeteroAttention}_l(X_l), \quad l < L, \qquad Y = \mathrm{HiFormer}(X_L)

    with L the ``num_blocks``.

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
        residual: ``"post"``, ``"pre"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> HHFT(num_tokens=4, token_dim=16, rank=8)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = HHFTOptions

    def build(self, options: HHFTOptions) -> None:
        """Build the residual stream; all attentions draw their weights before the FFNs."""
        self.check(options)
        sizes = (self.num_tokens, self.token_dim, options.num_heads)
        attentions = [hetero_sublayer(*sizes) for _ in range(options.num_blocks)]
        attentions.append(composite_sublayer(*sizes, ranks=(options.rank, options.value_rank)))
        self.stack = self.build_stack([(attention, self.build_ffn(options)) for attention in attentions], options)

    @classmethod
    def around_ffn(cls, options: HHFTOptions, token_dim: float) -> float:
        """Q, K, V and O of every token, composite ones in the top block."""
        tokens, ranks = options.num_tokens, (options.rank, options.value_rank)
        per_token = tokens * token_dim**2
        return options.num_blocks * 4 * per_token + composite_parameters(tokens, tokens, token_dim, ranks) + per_token

    @classmethod
    def count_blocks(cls, options: HHFTOptions) -> int:
        """Heterogeneous blocks and the one on top."""
        return options.num_blocks + 1

    @classmethod
    def follows(cls, width: float, options: HHFTOptions) -> dict[str, float]:
        """Ranks are as wide as a token."""
        return {"rank": width}

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Blocks of :math:`4 T D^2`; :math:`2 T D (2 r_k + r_v) + T D^2` for the top; T FFNs a block; norms."""
        return super().formula(**arguments)
