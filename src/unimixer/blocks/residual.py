"""Residual streams: how the blocks of a mixer, each a mixing and an FFN, are joined into a stack.

A block may have a third sublayer between the two, a :class:`~unimixer.blocks.cross_attention.CrossAttention` to a
sequence of events; the events then go through the stack beside the tokens, refined a layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from unimixer.blocks.cross_attention import CrossAttention
from unimixer.blocks.norms import RMSNorm
from unimixer.blocks.recompute import Recomputing
from unimixer.errors import check_choice, unknown

Block = tuple[nn.Module, ...]
"""A mixing and an FFN, or these with a :class:`~unimixer.blocks.cross_attention.CrossAttention` between them."""
Norm = Callable[[int], nn.Module]


class UniMixerBlock(nn.Module):
    r"""A block without its outer residual: :math:`O = \mathrm{Norm}(X + \mathrm{Mixing}(X))`, then the FFN of O.

    arXiv:2604.00590, "UniMixer block". With an attention to events, in the habit of the mixing before it,
    :math:`Z = \mathrm{Norm}(O + \mathrm{Attention}(O, E))` enters the FFN.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``
    """

    def __init__(
        self,
        mixing: nn.Module,
        ffn: nn.Module,
        norm: nn.Module,
        attention: nn.Module | None = None,
        attention_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.mixing, self.ffn, self.norm = mixing, ffn, norm
        self.attention, self.attention_norm = attention, attention_norm

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Mix, normalise, transform."""
        hidden = self.norm(tokens + self.mixing(tokens))
        if self.attention is not None and self.attention_norm is not None:
            hidden = self.attention_norm(hidden + self.attention(hidden, events, mask))
        output: Tensor = self.ffn(hidden)
        return output


class PostNorm(Recomputing):
    r"""Normalise after every addition: :math:`S = N(X + Mix(X))`, :math:`X' = N(S + FFN(S))`.

    RankMixer (arXiv:2507.15551), "block". An attention to events is a third sublayer like the others.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayer for block in blocks for sublayer in block)
        self.norms = nn.ModuleList(norm(token_dim) for _ in self.sublayers)

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run the stack."""
        for sublayer, norm in zip(self.sublayers, self.norms, strict=True):
            tokens, events = self.run(self._add, sublayer, norm, tokens, events, mask)
        return tokens

    @staticmethod
    def _add(
        sublayer: nn.Module, norm: nn.Module, tokens: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(sublayer, CrossAttention):
            events = sublayer.refine(events)
            return norm(tokens + sublayer(tokens, events, mask)), events
        return norm(tokens + sublayer(tokens)), events


class PreNorm(Recomputing):
    r"""Normalise the input of every sublayer: :math:`X' = X + F(N(X))`; one norm at the end.

    An attention to events is a third sublayer like the others (MixFormer, arXiv:2602.14110, has this stream).

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayer for block in blocks for sublayer in block)
        self.norms = nn.ModuleList(norm(token_dim) for _ in self.sublayers)
        self.final_norm = norm(token_dim)

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run the stack."""
        for sublayer, norm in zip(self.sublayers, self.norms, strict=True):
            tokens, events = self.run(self._add, sublayer, norm, tokens, events, mask)
        output: Tensor = self.final_norm(tokens)
        return output

    @staticmethod
    def _add(
        sublayer: nn.Module, norm: nn.Module, tokens: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(sublayer, CrossAttention):
            events = sublayer.refine(events)
            return tokens + sublayer(norm(tokens), events, mask), events
        return tokens + sublayer(norm(tokens)), events


class Siamese(Recomputing):
    r"""Two streams, X like post-norm and Y like pre-norm, :math:`X_0 = Y_0` = input.

    .. math:: O_l = \mathrm{Block}(X_l + N(Y_l)), \quad X_{l+1} = N(X_l + s_l O_l), \quad Y_{l+1} = Y_l + O_l;
              \qquad out = X_M + N(Y_M)

    arXiv:2604.00590, "SiameseNorm over the stack", one update a block, with :math:`s_l = 1`. The options are those of
    SiameseNorm itself (arXiv:2602.08064) and of public code; placing of norms follows arXiv:2604.00590 throughout.

    Args:
        blocks: pairs of a mixing and an FFN, or with an attention to events between the two.
        token_dim: width D.
        norm: builds a norm from the width.
        scale: :math:`s_l`: ``"none"`` is 1, ``"sublayer"`` is :math:`1 / \sqrt{l + 1}` (as published, l from 0),
            ``"official"`` is :math:`1 / \sqrt{2 (l + 1)}` (as the official code does).
        input_norm: normalise the sum that enters a block once more.
        readout: ``"sum"`` is :math:`X + N(Y)`, ``"sum_norm"`` normalises that sum, ``"x"`` drops Y.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        token_dim: int,
        norm: Norm = RMSNorm,
        *,
        scale: str = "none",
        input_norm: bool = False,
        readout: str = "sum",
    ) -> None:
        super().__init__()
        check_choice("scale", scale, ("none", "sublayer", "official"))
        check_choice("readout", readout, ("sum", "sum_norm", "x"))
        self.readout = readout
        self.blocks = nn.ModuleList(_joined(block, lambda: norm(token_dim)) for block in blocks)
        self.x_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.y_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.input_norms = nn.ModuleList(norm(token_dim) if input_norm else nn.Identity() for _ in blocks)
        self.final_y_norm = norm(token_dim) if readout != "x" else None
        self.final_norm = norm(token_dim) if readout == "sum_norm" else nn.Identity()
        divisor = {"none": 0, "sublayer": 1, "official": 2}[scale]
        self.scales = [1 / math.sqrt(divisor * (index + 1) or 1) for index in range(len(blocks))]

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run both streams."""
        x = y = tokens
        parts = zip(self.blocks, self.x_norms, self.y_norms, self.input_norms, self.scales, strict=True)
        for block, x_norm, y_norm, input_norm, scale in parts:
            norms = (x_norm, y_norm, input_norm)
            x, y, events = self.run(self._update, block, norms, scale, x, y, events, mask)
        if self.final_y_norm is not None:
            x = x + self.final_y_norm(y)
        output: Tensor = self.final_norm(x)
        return output

    @staticmethod
    def _update(
        block: nn.Module,
        norms: tuple[nn.Module, nn.Module, nn.Module],
        scale: float,
        x: Tensor,
        y: Tensor,
        events: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x_norm, y_norm, input_norm = norms
        if isinstance(block, UniMixerBlock) and isinstance(block.attention, CrossAttention):
            events = block.attention.refine(events)
        update = block(input_norm(x + y_norm(y)), events, mask)
        return x_norm(x + scale * update), y + update, events


def _joined(block: Block, norm: Callable[[], nn.Module]) -> UniMixerBlock:
    """The sublayers of a block as one module, each but the FFN with a norm."""
    mixing, *attention, ffn = block
    if not attention:
        return UniMixerBlock(mixing, ffn, norm())
    return UniMixerBlock(mixing, ffn, norm(), attention[0], norm())


STREAMS: dict[str, type[nn.Module]] = {"post": PostNorm, "pre": PreNorm, "siamese": Siamese}


def build_stream(
    residual: str,
    blocks: Sequence[Block],
    token_dim: int,
    norm: Norm = RMSNorm,
    *,
    scale: str = "none",
    input_norm: bool = False,
    readout: str = "sum",
) -> nn.Module:
    """A residual stream by name; ``scale``, ``input_norm`` and ``readout`` are options of ``"siamese"`` alone."""
    if residual == "siamese":
        return Siamese(blocks, token_dim, norm, scale=scale, input_norm=input_norm, readout=readout)
    if residual not in STREAMS:
        raise unknown("residual", residual, STREAMS)
    return STREAMS[residual](blocks, token_dim, norm)


def count_norms(
    residual: str, num_blocks: int, *, attention: bool = False, input_norm: bool = False, readout: str = "sum"
) -> int:
    """Norms of a stream by the closed formula; the arguments are those of :func:`build_stream`.

    Example:
        >>> count_norms("post", 2), count_norms("siamese", 2)
        (4, 7)
    """
    sublayers = 3 if attention else 2
    if residual == "siamese":  # every sublayer but the FFN, the two streams, the input; then the read-out
        return num_blocks * (sublayers - 1 + 2 + input_norm) + {"x": 0, "sum": 1, "sum_norm": 2}[readout]
    return num_blocks * sublayers + (residual == "pre")
