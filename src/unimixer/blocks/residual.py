"""Residual streams: how the blocks of a mixer, each a mixing and an FFN, are joined into a stack.

A block may have a third sublayer between the two, a :class:`~unimixer.blocks.cross_attention.CrossAttention` to a
sequence of events; the events then go through the stack beside the tokens, refined a layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unimixer.blocks.cross_attention import EventAttention
from unimixer.blocks.norms import RMSNorm, norm_of_layer, norm_of_sum
from unimixer.blocks.recompute import Recomputing
from unimixer.errors import unknown

Block = tuple[nn.Module, ...]
"""A mixing and an FFN, or these with a :class:`~unimixer.blocks.cross_attention.CrossAttention` between them."""
Norm = Callable[[int], nn.Module]
RESIDUALS = ("post", "bare-mixing", "pre", "siamese", "siamese-official")


@dataclass(frozen=True, kw_only=True)
class ResidualOptions:
    """Options of a backbone that name its residual stream and its norms."""

    norm: str = "layer"
    """``"layer"`` or ``"rms"``."""
    residual: str = "post"
    """One of :data:`RESIDUALS`."""


class UniMixerBlock(nn.Module):
    r"""A block without its outer residual: :math:`O = \mathrm{Norm}(X + \mathrm{Mixing}(X))`, then the FFN of O.

    arXiv:2604.00590, "UniMixer block". With an attention to events, :math:`Z = \mathrm{Norm}(O +
    \mathrm{Attention}(O, E))` enters the FFN.

    Args:
        mixing: of the tokens.
        ffn: a layer a token.
        norm: Norm.
        attention: to events, between the two.
        attention_norm: the norm behind the attention.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> tokens, mixing, ffn = torch.tensor([[[3.0, 4.0]]]), nn.Identity(), nn.Identity()
        >>> UniMixerBlock(mixing, ffn, nn.Identity())(tokens).tolist()  # X + Mixing(X), then the FFN
        [[[6.0, 8.0]]]
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
        hidden = norm_of_layer(self.norm, tokens, self.mixing)
        if self.attention is not None and self.attention_norm is not None:
            hidden = norm_of_sum(self.attention_norm, hidden, self.attention(hidden, events, mask))
        output: Tensor = self.ffn(hidden)
        return output


class _Sublayers(Recomputing):
    """Base of streams that add one sublayer after the other, each with a norm of its own."""

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
        raise NotImplementedError


class PostNorm(_Sublayers):
    r"""Normalise after every addition: :math:`S = N(X + Mix(X))`, :math:`X' = N(S + FFN(S))`.

    RankMixer (arXiv:2507.15551), "block". An attention to events is a third sublayer like the others.

    Args:
        blocks: pairs of a mixing and an FFN, or with an attention to events between the two.
        token_dim: D.
        norm: builds the norm N from the width.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> tokens, mixing, ffn = torch.tensor([[[3.0, 4.0]]]), nn.Identity(), nn.Identity()
        >>> PostNorm([(mixing, ffn)], 2, norm=lambda width: nn.Identity())(tokens).tolist()
        [[[12.0, 16.0]]]
    """

    @staticmethod
    def _add(
        sublayer: nn.Module, norm: nn.Module, tokens: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(sublayer, EventAttention):
            events = sublayer.refine(events)
            return norm_of_sum(norm, tokens, sublayer(tokens, events, mask)), events
        return norm_of_layer(norm, tokens, sublayer), events


class BareMixing(PostNorm):
    r"""Post-norm without addition and norm after the mixing: :math:`S = Mix(X)`, :math:`X' = N(S + FFN(S))`.

    A mixing that is nearly a permutation keeps all that its input says, so that the first addition can be spared.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__(blocks, token_dim, norm)
        mixings = {block[0] for block in blocks}
        for index, sublayer in enumerate(self.sublayers):
            if sublayer in mixings:
                self.norms[index] = nn.Identity()

    @staticmethod
    def _add(
        sublayer: nn.Module, norm: nn.Module, tokens: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(norm, nn.Identity):
            return sublayer(tokens), events
        return PostNorm._add(sublayer, norm, tokens, events, mask)


class PreNorm(_Sublayers):
    r"""Normalise the input of every sublayer: :math:`X' = X + F(N(X))`; one norm at the end.

    An attention to events is a third sublayer like the others (MixFormer, arXiv:2602.14110, has this stream).

    Args:
        blocks: pairs of a mixing and an FFN, or with an attention to events between the two.
        token_dim: D.
        norm: builds the norm N from the width.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> tokens, mixing, ffn = torch.tensor([[[3.0, 4.0]]]), nn.Identity(), nn.Identity()
        >>> PreNorm([(mixing, ffn)], 2, norm=lambda width: nn.Identity())(tokens).tolist()
        [[[12.0, 16.0]]]
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__(blocks, token_dim, norm)
        self.final_norm = norm(token_dim)

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run the stack and normalise its output."""
        output: Tensor = self.final_norm(super().forward(tokens, events, mask))
        return output

    @staticmethod
    def _add(
        sublayer: nn.Module, norm: nn.Module, tokens: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(sublayer, EventAttention):
            events = sublayer.refine(events)
            return tokens + sublayer(norm(tokens), events, mask), events
        return tokens + sublayer(norm(tokens)), events


class Siamese(Recomputing):
    r"""Two streams, X like post-norm and Y like pre-norm, :math:`X_0 = Y_0` = input.

    .. math:: O_l = \mathrm{Block}(X_l + N(Y_l)), \quad X_{l+1} = N(X_l + O_l), \quad Y_{l+1} = Y_l + O_l;
              \qquad out = X_M + N(Y_M)

    arXiv:2604.00590, "SiameseNorm over the stack", one update a block. ``official=True`` adds the three parts of the
    official code of SiameseNorm itself (arXiv:2602.08064): a norm on the sum that enters a block, the factor
    :math:`1 / \sqrt{2 (l + 1)}` on :math:`O_l` in X, and a norm on the output. The other norms stay where
    arXiv:2604.00590 has them.

    Args:
        blocks: pairs of a mixing and an FFN, or with an attention to events between the two.
        token_dim: width D.
        norm: builds a norm from the width.
        official: as in the official code of SiameseNorm.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> Siamese([(nn.Linear(4, 4), nn.Linear(4, 4))], 4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(
        self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm, *, official: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_joined(block, lambda: norm(token_dim)) for block in blocks)
        self.x_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.y_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.input_norms = nn.ModuleList(norm(token_dim) if official else nn.Identity() for _ in blocks)
        self.final_y_norm = norm(token_dim)
        self.final_norm = norm(token_dim) if official else nn.Identity()
        self.scales = [1 / math.sqrt(2 * (index + 1)) if official else 1.0 for index in range(len(blocks))]

    def forward(self, tokens: Tensor, events: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run both streams."""
        x = y = tokens
        for index in range(len(self.blocks)):
            x, y, events = self.run(self._update, index, x, y, events, mask)
        output: Tensor = self.final_norm(x + self.final_y_norm(y))
        return output

    def _update(
        self, index: int, x: Tensor, y: Tensor, events: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        block = self.blocks[index]
        if isinstance(block, UniMixerBlock) and isinstance(block.attention, EventAttention):
            events = block.attention.refine(events)
        update = block(self.input_norms[index](x + self.y_norms[index](y)), events, mask)
        return norm_of_sum(self.x_norms[index], x, self.scales[index] * update), y + update, events


def _joined(block: Block, norm: Callable[[], nn.Module]) -> UniMixerBlock:
    """Join the sublayers of a block into one module, each but the FFN with a norm."""
    mixing, *attention, ffn = block
    if not attention:
        return UniMixerBlock(mixing, ffn, norm())
    return UniMixerBlock(mixing, ffn, norm(), attention[0], norm())


def build_stream(residual: str, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> nn.Module:
    """Build a residual stream by its name in :data:`RESIDUALS`."""
    if residual not in RESIDUALS:
        raise unknown("residual", residual, RESIDUALS)
    plain = {"post": PostNorm, "bare-mixing": BareMixing, "pre": PreNorm}
    if residual in plain:
        return plain[residual](blocks, token_dim, norm)
    return Siamese(blocks, token_dim, norm, official=residual == "siamese-official")


def count_norms(residual: str, num_blocks: int, *, attention: bool = False) -> int:
    """Count the norms of a stream by the closed formula; the arguments are those of :func:`build_stream`.

    Example:
        >>> count_norms("post", 2), count_norms("siamese", 2), count_norms("siamese-official", 2)
        (4, 7, 10)
    """
    if residual not in RESIDUALS:
        raise unknown("residual", residual, RESIDUALS)
    sublayers = 3 if attention else 2
    if residual in ("post", "pre"):
        return num_blocks * sublayers + (residual == "pre")
    if residual == "bare-mixing":
        return num_blocks * (sublayers - 1)
    official = residual == "siamese-official"  # every sublayer but the FFN, the two streams, the input; then the output
    return num_blocks * (sublayers - 1 + 2 + official) + 1 + official
