"""RankMixer: the parameter-free rule and per-token FFNs."""

from __future__ import annotations

from typing import Any

from unimixer.backbones.mixer import MixerBackbone
from unimixer.blocks.residual import Block
from unimixer.errors import check_divisible
from unimixer.mixing import Mixing, TokenMixing


class RankMixer(MixerBackbone):
    r"""A stack of parameter-free token mixing and per-token FFN.

    .. math:: S = \mathrm{LN}(X + \mathrm{Mix}(X)), \qquad X' = \mathrm{LN}(S + \mathrm{FFN}(S))

    RankMixer (arXiv:2507.15551), "block". The paper is silent on the expansion; 4 fits its sizes about as well as 3.

    Args:
        num_tokens: T.
        token_dim: D, divisible by T: the rule has one head a token.
        num_blocks: blocks of one mixing and one FFN.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"gelu"``, ``"swiglu"``, ``"relu-moe"`` (the paper's sparse variant) or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.
        sequence_dim: width of events that a third sublayer between mixing and FFN attends to, see
            :class:`~unimixer.blocks.CrossAttention` (default: there is none; ``Ranker(sequences="cross_attention")``
            sets it).
        sequence_head_dim: width of its queries, keys and values (default: D).
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.
        dots: send dot products of all pairs of tokens past the stack to the towers, of those that enter it and of those
            that leave it, see :class:`~unimixer.backbones.mixer.MixerBackbone`.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``, with ``dots`` beside features ``(B, T (T - 1))``

    Example:
        >>> import torch
        >>> RankMixer(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    def build(self, options: Any) -> None:
        """Build the residual stream."""
        check_divisible("token_dim", self.token_dim, by="num_tokens", divisor=self.num_tokens)
        super().build(options)

    def build_block(self, options: Any) -> Block:
        """Build one block; its FFN draws its weights first."""
        ffn = self.build_ffn(options)
        attention = options.build_attention(self.num_tokens, self.token_dim)
        return self.build_mixing(options), *attention, ffn

    def build_mixing(self, options: Any) -> Mixing:
        """Build the rule."""
        return TokenMixing(self.num_tokens, self.token_dim)
