"""HyFormer: query tokens read the history in every layer, then all tokens mix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from unimixer.backbones.token_mixer import MIXINGS, TokenMixer, TokenMixerOptions
from unimixer.backbones.unimixer import UniMixerLite, UniMixerLiteOptions
from unimixer.blocks import QueryAttention, QueryStart
from unimixer.blocks.cross_attention import EventAttention
from unimixer.blocks.residual import Block
from unimixer.errors import UnimixerError, check_choice, unknown
from unimixer.mixing import Mixing
from unimixer.mixing.unimixing import UniMixingLiteOptions

LEARNED = "unimixing-lite"


@dataclass(frozen=True, kw_only=True)
class HyFormerOptions(TokenMixerOptions):
    """Keyword arguments of :class:`HyFormer`; their meaning is there."""

    residual: str = "pre"
    num_queries: int | None = None
    attention_heads: int | None = None
    mixing_options: Mapping[str, Any] | None = None

    @property
    def queries(self) -> int:
        """Q."""
        return max(1, self.num_tokens // 4) if self.num_queries is None else self.num_queries

    def check(self) -> None:
        """Raise for options that do not fit."""
        check_choice("residual", self.residual, ("pre", "post"))
        check_choice("mixing", self.mixing, (*MIXINGS, LEARNED))
        if not 1 <= self.queries <= self.num_tokens:
            raise UnimixerError(
                f"num_queries={self.queries}: queries are the first of the {self.num_tokens} tokens; "
                f"take 1 to {self.num_tokens}"
            )
        if self.sequence_head_dim is not None:
            raise UnimixerError("sequence_head_dim: heads of hyformer are D / attention_heads wide; leave it out")
        if self.mixing != LEARNED:
            super().check()
            if self.mixing_options is not None:
                raise UnimixerError(f"mixing_options have no use with mixing={self.mixing!r}; leave them out")

    def learned(self) -> UniMixerLiteOptions:
        """Return the options of UniMixing-Lite; raise for one that it does not have."""
        known = {"matrices", "block_size", *(field.name for field in fields(UniMixingLiteOptions))} - {"num_heads"}
        for name in self.mixing_options or {}:
            if name not in known:
                raise unknown("key of mixing_options", name, known)
        chosen = self.mixing_options or {}
        options = UniMixerLiteOptions(num_tokens=self.num_tokens, token_dim=self.token_dim, **chosen)
        options.check(chosen)
        return options

    def build_attention(self, num_tokens: int, token_dim: int) -> tuple[EventAttention, ...]:
        """Build the attention of the queries; none without ``sequence_dim``."""
        self.check_events()
        if self.sequence_dim is None:
            return ()
        heads = math.gcd(4, token_dim) if self.attention_heads is None else self.attention_heads
        sizes = (self.queries, token_dim, self.sequence_dim)
        return (QueryAttention(*sizes, num_heads=heads, hidden_dim=self.sequence_hidden_dim),)

    def attention_parameters(self, num_tokens: int, token_dim: int) -> int:
        """Count the parameters of :meth:`build_attention` by formula."""
        if self.sequence_dim is None:
            return 0
        return QueryAttention.num_parameters(token_dim, self.sequence_dim, hidden_dim=self.sequence_hidden_dim)


class HyFormer(TokenMixer):
    r"""Layers in which Q query tokens read the events, and then all tokens mix.

    .. math:: E' = E + \mathrm{SwiGLU}(\mathrm{N}(E)), \quad
              G \leftarrow G + \mathrm{Attn}(\mathrm{N}(G), \mathrm{N}(E')), \quad
              X \leftarrow X + \mathrm{Mix}(\mathrm{N}(X)), \quad X \leftarrow X + \mathrm{FFN}(\mathrm{N}(X)), \qquad
              X = [G; N]

    HyFormer (arXiv:2601.12681): sequence encoding, query decoding, query boosting. A history is read again in every
    layer, by queries that know the fields. The encoder is the light one, a SwiGLU on every event, so that a layer costs
    and keeps what is linear in the length.

    Ours: the queries are the first Q tokens of the tokenizer and start with a learned sum of all
    (:class:`~unimixer.blocks.QueryStart`), where the source generates them from all fields and the mean of the
    sequence beside the other tokens; one set of queries reads all histories; the read-out is the Ranker's, over all
    tokens; no biases in the attention. Without ``sequence_dim`` there are no events, and layers mix alone.

    Args:
        num_tokens: T, queries included.
        token_dim: D, divisible by T and by ``attention_heads``.
        num_blocks: layers.
        num_queries: Q (default: a quarter of T).
        attention_heads: heads of the attention to events (default 4, or the largest power of two below that divides D).
        mixing: as in :class:`TokenMixer`, or ``"unimixing-lite"``.
        mixing_options: of ``"unimixing-lite"``: arguments of :class:`~unimixer.backbones.UniMixerLite` on its mixing.
        num_heads: as in :class:`TokenMixer`, like the next two.
        init: start of ``"per-head"``.
        mixing_seed: decides on a random matrix or permutation.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"swiglu"``, ``"gelu"``, ``"relu-moe"`` or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"rms"`` or ``"layer"``.
        residual: ``"pre"`` or ``"post"``.
        sequence_dim: width of events (``Ranker(sequences="cross_attention")`` sets it).
        sequence_head_dim: not for this backbone.
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.
        dots: send dot products of all pairs of tokens past the stack to the towers, of those that enter it and of those
            that leave it, see :class:`~unimixer.backbones.mixer.MixerBackbone`.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``, with ``dots`` beside features ``(B, T (T - 1))``

    Example:
        >>> import torch
        >>> model = HyFormer(num_tokens=4, token_dim=16, sequence_dim=6)
        >>> model(torch.zeros(2, 4, 16), torch.zeros(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = HyFormerOptions
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"mixing": LEARNED},)

    def build(self, options: Any) -> None:
        """Build the queries and the residual stream."""
        super().build(options)
        self.start = QueryStart(self.num_tokens, options.queries)

    def build_block(self, options: HyFormerOptions) -> Block:
        """Build one layer: attention of the queries, mixing of all tokens, FFN."""
        attention = options.build_attention(self.num_tokens, self.token_dim)
        return *attention, self.build_mixing(options), self.build_ffn(options)

    def build_mixing(self, options: TokenMixerOptions) -> Mixing:
        """Build the mixing of one layer."""
        if not isinstance(options, HyFormerOptions) or options.mixing != LEARNED:
            return super().build_mixing(options)
        return options.learned().learned_mixing()

    def enter(self, tokens: Tensor) -> Tensor:
        """Start the queries."""
        started: Tensor = self.start(tokens)
        return started

    @classmethod
    def mixing_parameters(cls, options: TokenMixerOptions) -> int:
        """Those of :class:`TokenMixer` or :class:`UniMixerLite`."""
        if isinstance(options, HyFormerOptions) and options.mixing == LEARNED:
            return UniMixerLite.mixing_parameters(options.learned())
        return super().mixing_parameters(options)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Those of a mixer, where an attention has :math:`2 D^2 + 2 C D + C`, and :math:`Q T` of the start."""
        chosen = HyFormerOptions(**arguments)
        return super().formula(**arguments) + chosen.queries * chosen.num_tokens
