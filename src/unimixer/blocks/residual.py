"""Residual streams: how the blocks of a mixer, each a mixing and an FFN, are joined into a stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from unimixer.blocks.norms import RMSNorm
from unimixer.errors import check_choice, unknown

Block = tuple[nn.Module, nn.Module]
Norm = Callable[[int], nn.Module]


class UniMixerBlock(nn.Module):
    r"""A block without its outer residual: :math:`O = \mathrm{Norm}(X + \mathrm{Mixing}(X))`, then the FFN of O.

    arXiv:2604.00590, "UniMixer block".

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
    """

    def __init__(self, mixing: nn.Module, ffn: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.mixing, self.ffn, self.norm = mixing, ffn, norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix, normalise, transform."""
        output: Tensor = self.ffn(self.norm(tokens + self.mixing(tokens)))
        return output


class PostNorm(nn.Module):
    r"""Normalise after every addition: :math:`S = N(X + Mix(X))`, :math:`X' = N(S + FFN(S))`.

    RankMixer (arXiv:2507.15551), "block".

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayer for block in blocks for sublayer in block)
        self.norms = nn.ModuleList(norm(token_dim) for _ in self.sublayers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        for sublayer, norm in zip(self.sublayers, self.norms, strict=True):
            tokens = norm(tokens + sublayer(tokens))
        return tokens


class PreNorm(nn.Module):
    r"""Normalise the input of every sublayer: :math:`X' = X + F(N(X))`; one norm at the end.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[Block], token_dim: int, norm: Norm = RMSNorm) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayer for block in blocks for sublayer in block)
        self.norms = nn.ModuleList(norm(token_dim) for _ in self.sublayers)
        self.final_norm = norm(token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        for sublayer, norm in zip(self.sublayers, self.norms, strict=True):
            tokens = tokens + sublayer(norm(tokens))
        output: Tensor = self.final_norm(tokens)
        return output


class Siamese(nn.Module):
    r"""Two streams, X like post-norm and Y like pre-norm, :math:`X_0 = Y_0` = input.

    .. math:: O_l = \mathrm{Block}(X_l + N(Y_l)), \quad X_{l+1} = N(X_l + s_l O_l), \quad Y_{l+1} = Y_l + O_l;
              \qquad out = X_M + N(Y_M)

    arXiv:2604.00590, "SiameseNorm over the stack", one update a block, with :math:`s_l = 1`. The options are those of
    SiameseNorm itself (arXiv:2602.08064) and of public code; placing of norms follows arXiv:2604.00590 throughout.

    Args:
        blocks: pairs of a mixing and an FFN.
        token_dim: width D.
        norm: builds a norm from the width.
        scale: :math:`s_l`: ``"none"`` is 1, ``"sublayer"`` is :math:`1 / \sqrt{l + 1}` (as published, l from 0),
            ``"official"`` is :math:`1 / \sqrt{2 (l + 1)}` (as the official code does).
        input_norm: normalise the sum that enters a block once more.
        readout: ``"sum"`` is :math:`X + N(Y)`, ``"sum_norm"`` normalises that sum, ``"x"`` drops Y.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
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
        self.blocks = nn.ModuleList(UniMixerBlock(mixing, ffn, norm(token_dim)) for mixing, ffn in blocks)
        self.x_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.y_norms = nn.ModuleList(norm(token_dim) for _ in blocks)
        self.input_norms = nn.ModuleList(norm(token_dim) if input_norm else nn.Identity() for _ in blocks)
        self.final_y_norm = norm(token_dim) if readout != "x" else None
        self.final_norm = norm(token_dim) if readout == "sum_norm" else nn.Identity()
        divisor = {"none": 0, "sublayer": 1, "official": 2}[scale]
        self.scales = [1 / math.sqrt(divisor * (index + 1) or 1) for index in range(len(blocks))]

    def forward(self, tokens: Tensor) -> Tensor:
        """Run both streams."""
        x = y = tokens
        parts = zip(self.blocks, self.x_norms, self.y_norms, self.input_norms, self.scales, strict=True)
        for block, x_norm, y_norm, input_norm, scale in parts:
            update = block(input_norm(x + y_norm(y)))
            x, y = x_norm(x + scale * update), y + update
        if self.final_y_norm is not None:
            x = x + self.final_y_norm(y)
        output: Tensor = self.final_norm(x)
        return output


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
