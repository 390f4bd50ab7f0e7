"""The base of token mixers: a stack of token mixing and per-token FFN in a residual stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.backbones.base import Output, StackBackbone, StackShape, nearest_multiple
from unimixer.blocks import (
    PairProducts,
    build_ffn,
    build_norm,
    build_stream,
    ffn_matrices,
    ffn_parameters,
    matched_hidden,
)
from unimixer.blocks.cross_attention import EventOptions
from unimixer.blocks.ffn import FFNOptions
from unimixer.blocks.residual import Block, ResidualOptions, count_norms
from unimixer.mixing import Mixing


@dataclass(frozen=True, kw_only=True)
class MixerOptions(ResidualOptions, FFNOptions, StackShape):
    """Options that every token mixer has."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions(EventOptions, MixerOptions):
    """Options of a token mixer whose blocks may attend to events."""

    dots: bool = False
    """Send dot products of the tokens past the stack to the towers."""


class MixerBackbone(StackBackbone):
    r"""Base of token mixers: blocks of a mixing, an attention to events where there are any, and a per-token FFN.

    With ``dots`` the dot products of all pairs of tokens that enter the stack, and of those that leave it, go past it
    to the towers, divided by :math:`\sqrt{D}` (UniDot, arXiv:2608.16797, sends those of every layer).

    A subclass sets ``Options`` and gives :meth:`build_mixing` and :meth:`mixing_parameters`; one with another stack
    gives :meth:`build` and :meth:`forward`.
    """

    family: ClassVar[str] = "mixer"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "chunk"
    Options: ClassVar[Any] = StreamOptions
    stack: nn.Module
    batch_last: ClassVar[bool] = True

    def build(self, options: Any) -> None:
        """Build the residual stream."""
        self.sequence_dim = options.sequence_dim
        blocks = [self.build_block(options) for _ in range(options.num_blocks)]
        self.dots = PairProducts(self.num_tokens) if options.dots else None
        self.bypass_dim = 0 if self.dots is None else 2 * self.dots.out_dim
        self.stack = build_stream(options.residual, blocks, self.token_dim, partial(build_norm, options.norm))

    def build_block(self, options: Any) -> Block:
        """Build one block: a mixing, an attention to events if there are any, and an FFN."""
        mixing = self.build_mixing(options)
        attention = options.build_attention(self.num_tokens, self.token_dim)
        return mixing, *attention, self.build_ffn(options)

    def build_mixing(self, options: Any) -> Mixing:
        """Build the mixing of one block."""
        raise NotImplementedError

    def build_ffn(self, options: Any) -> nn.Module:
        """Build the FFN of one block."""
        hidden_dim = options.hidden(self.token_dim)
        return build_ffn(options.ffn, self.num_tokens, self.token_dim, hidden_dim, options.ffn_options)

    def forward(self, tokens: Tensor, events: Tensor | None = None, event_mask: Tensor | None = None) -> Output:
        """Run the stack."""
        self.check_tokens(tokens)
        self.check_events(events, event_mask)
        entering = self.enter(tokens)
        output: Tensor = self.stack(ops.batch_last(entering) if self.batch_last else entering, events, event_mask)
        if self.dots is None:
            return output
        output = ops.batch_first(output)
        products = torch.cat([self.dots(tokens), self.dots(output)], dim=1)
        return output, products * self.token_dim**-0.5

    def enter(self, tokens: Tensor) -> Tensor:
        """Return the tokens that enter the stack."""
        return tokens

    @classmethod
    def mixing_parameters(cls, options: Any) -> int:
        """Parameters of the mixing of one block, by formula."""
        return 0

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's mixing, T FFNs and two norms.

        A GELU FFN has :math:`2 D h + h + D`, a SwiGLU :math:`3 D h + 2 h + D`, a layer norm :math:`2 D`, an RMS norm D.
        Residual ``"pre"`` has one norm more, ``"siamese"`` three a block and one more. An attention to events adds its
        own parameters and one norm a block.
        """
        chosen = cls.Options(**arguments)
        num_tokens, token_dim, num_blocks = chosen.num_tokens, chosen.token_dim, chosen.num_blocks
        ffn = ffn_parameters(chosen.ffn, num_tokens, token_dim, chosen.hidden(token_dim), chosen.ffn_options)
        block = cls.mixing_parameters(chosen) + ffn + chosen.attention_parameters(num_tokens, token_dim)
        norms = count_norms(chosen.residual, num_blocks, attention=chosen.sequence_dim is not None)
        return int(num_blocks * block + norms * token_dim * (1 + (chosen.norm == "layer")))

    @classmethod
    def width_step(cls, options: Any) -> int:
        """The number that divides every token width."""
        return int(options.num_tokens)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the valid token width nearest to ``width``; the hidden width takes up rounding and other parts."""
        chosen = cls.Options(**options, num_tokens=num_tokens)
        token_dim = nearest_multiple(width, cls.width_step(chosen)) if token_dim is None else token_dim
        hidden = float(chosen.expansion) * width**2 / token_dim
        if isinstance(chosen, StreamOptions):
            matrices = ffn_matrices(chosen.ffn, chosen.ffn_options) * num_tokens * token_dim
            besides = chosen.attention_parameters(num_tokens, token_dim)
            besides += cls.mixing_parameters(replace(chosen, token_dim=token_dim))
            hidden -= besides / matrices
        hidden_dim = matched_hidden(chosen.ffn, num_tokens, token_dim, hidden, chosen.ffn_options)
        return {"token_dim": token_dim, "hidden_dim": hidden_dim}
