"""RankElastor: one full matrix for mixing and gated per-token FFNs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer import ops
from unimixer.backbones.base import Backbone
from unimixer.blocks import PerTokenLinear, Recomputing, RMSNorm
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.mixing import FullMixing

READINGS = ("code", "paper")


class TokenRMSNorm(nn.Module):
    r"""RMS norm of every token with a gain of its own: :math:`x_t / \mathrm{rms}(x_t) \odot g_t`.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> TokenRMSNorm(1, 2)(torch.tensor([[[3.0, 4.0]]])).detach()
        tensor([[[0.8485, 1.1314]]])
    """

    def __init__(self, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens, token_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise over D."""
        return ops.rms_norm(tokens) * self.weight


class FullMixingLayer(nn.Module):
    r"""Full mixing with its residual and norms.

    ``"code"``: :math:`\mathrm{RMS}_D(X + W\, \mathrm{RMS}_{TD}(\mathrm{vec} X) + b)`.
    ``"paper"``: :math:`\mathrm{LN}((W + I)\, \mathrm{vec} X)`, the norm over D (the paper is not explicit).

    RankElastor (arXiv:2605.23191) and its official code.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> FullMixingLayer(4, 6, "paper")(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, reading: str) -> None:
        super().__init__()
        length = num_tokens * token_dim
        self.mixing = FullMixing(length)
        self.pre_norm: nn.Module | None = None
        self.bias: nn.Parameter | None = None
        self.norm: nn.Module = nn.LayerNorm(token_dim)
        if reading == "code":
            self.pre_norm, self.norm = RMSNorm(length), RMSNorm(token_dim)
            self.bias = nn.Parameter(torch.empty(num_tokens, token_dim).uniform_(-(length**-0.5), length**-0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix, add, normalise."""
        if self.pre_norm is None:
            mixed = self.mixing(tokens)
        else:
            mixed = self.mixing(self.pre_norm(tokens.flatten(1))).view(tokens.shape) + self.bias
        output: Tensor = self.norm(tokens + mixed)
        return output


class GatedLinear(nn.Module):
    r"""The paper's gated FFN, own weights for every token, no bias: it keeps a linear path around the product.

    .. math:: (\mathrm{GELU}(m_t W_1^t) \odot m_t W_2^t)\, W_3^t + m_t W_r^t

    RankElastor (arXiv:2605.23191), "gated per-token FFN". The three maps of the input are one fused weight.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> GatedLinear(4, 6, 12)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_positive(hidden_dim=hidden_dim)
        self.widths = [hidden_dim, hidden_dim, token_dim]
        self.up = PerTokenLinear(num_tokens, token_dim, sum(self.widths), bias=False)
        self.down = PerTokenLinear(num_tokens, hidden_dim, token_dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's gated layer."""
        gate, up, linear = self.up(tokens).split(self.widths, dim=-1)
        output: Tensor = self.down(F.gelu(gate) * up) + linear
        return output


class SkippedGate(nn.Module):
    r"""The official code's gated layer, with biases and a second skip inside the product.

    .. math:: \big( (m_t W_s^t + \mathrm{GELU}(m_t W_1^t)) \odot m_t W_2^t \big) W_3^t + m_t W_r^t

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> SkippedGate(4, 6, 12)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_positive(hidden_dim=hidden_dim)
        self.widths = [hidden_dim, hidden_dim, hidden_dim, token_dim]
        self.up = PerTokenLinear(num_tokens, token_dim, sum(self.widths))
        self.down = PerTokenLinear(num_tokens, hidden_dim, token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's gated layer."""
        skip, gate, up, linear = self.up(tokens).split(self.widths, dim=-1)
        output: Tensor = self.down((skip + F.gelu(gate)) * up) + linear
        return output


class ResidualGatedFFN(nn.Module):
    """The official code's FFN: gated layers, each after a norm, a projection where the width changes, and a residual.

    Args:
        num_tokens: T.
        token_dim: D.
        ffn_dims: width after every gated layer.
        hidden_dims: hidden width inside every gated layer.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> ResidualGatedFFN(4, 6, ffn_dims=(8,), hidden_dims=(12,))(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, ffn_dims: Sequence[int], hidden_dims: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (token_dim, *ffn_dims)
        for (in_dim, out_dim), hidden_dim in zip(pairwise(widths), hidden_dims, strict=True):
            layers += [TokenRMSNorm(num_tokens, in_dim), SkippedGate(num_tokens, in_dim, hidden_dim)]
            layers += [PerTokenLinear(num_tokens, in_dim, out_dim)] if in_dim != out_dim else []
        self.layers = nn.Sequential(*layers, PerTokenLinear(num_tokens, widths[-1], token_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's layers and add the input."""
        output: Tensor = tokens + self.layers(tokens)
        return output


@dataclass(frozen=True, kw_only=True)
class RankElastorOptions:
    """Keyword arguments of :class:`RankElastor`; their meaning is there."""

    num_tokens: int = 16
    token_dim: int = 32
    num_layers: int = 2
    mixing: str = "code"
    ffn: str = "code"
    ffn_dims: Sequence[int] | None = None
    hidden_dim: int | None = None
    expansion: float = 3.0


class RankElastor(Recomputing, Backbone):
    r"""RankMixer's frame with a full matrix in place of the shuffle and gated per-token FFNs.

    .. math:: M = \mathrm{LN}((W + I)\, \mathrm{vec}(X)), \qquad
              X'_t = (\mathrm{GELU}(m_t W_1^t) \odot m_t W_2^t)\, W_3^t + m_t W_r^t

    RankElastor (arXiv:2605.23191) as the paper writes it; its official code normalises before the matrix as well, and
    its FFN has norms, a residual and one skip more. ``mixing="code"``, ``ffn="code"`` (default) is what gave the
    published numbers. Code and paper share no exact setting; a mixture of both is ours. W has :math:`(T D)^2` numbers:
    it, not the FFNs, soon takes the whole budget. The code's head, flatten and a network, is the Ranker's
    ``pooling="flatten"`` with towers; its alternative is the mean, as in RankMixer.

    Args:
        num_tokens: T.
        token_dim: D; any width, since there are no heads.
        num_layers: layers of one mixing and one FFN.
        mixing: ``"code"`` or ``"paper"``.
        ffn: ``"code"`` or ``"paper"``.
        ffn_dims: widths after the gated layers of ``ffn="code"`` (default: one of width D).
        hidden_dim: hidden width inside every gated layer (default: ``expansion`` times its input's width).
        expansion: ratio of hidden to input width.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> RankElastor(num_tokens=4, token_dim=6)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    Options: ClassVar[Any] = RankElastorOptions
    family: ClassVar[str] = "mixer"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "chunk"

    def __init__(self, **options: Any) -> None:
        chosen = RankElastorOptions(**options)
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        check_positive(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            num_layers=chosen.num_layers,
            expansion=chosen.expansion,
        )
        check_choice("mixing", chosen.mixing, READINGS)
        check_choice("ffn", chosen.ffn, READINGS)
        widths = ffn_widths(chosen.token_dim, chosen.ffn, chosen.ffn_dims)
        hidden = hidden_widths(chosen.token_dim, widths, chosen.hidden_dim, chosen.expansion)

        def build_ffn() -> nn.Module:
            if chosen.ffn == "paper":
                return GatedLinear(chosen.num_tokens, chosen.token_dim, hidden[0])
            return ResidualGatedFFN(chosen.num_tokens, chosen.token_dim, widths, hidden)

        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(chosen.num_layers)
                for layer in (FullMixingLayer(chosen.num_tokens, chosen.token_dim, chosen.mixing), build_ffn())
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        for layer in self.layers:
            tokens = self.run(layer, tokens)
        return tokens

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Per layer :math:`(T D)^2`, norms and bias, and T FFNs.

        A gated layer of hidden width h on width w: paper :math:`3 w h + w^2`; code :math:`4 w h + w^2 + 3 h + 2 w`, its
        norm w, projections :math:`(w + 1) w'`.
        """
        chosen = RankElastorOptions(**arguments)
        tokens, width = chosen.num_tokens, chosen.token_dim
        widths = ffn_widths(width, chosen.ffn, chosen.ffn_dims)
        hidden = hidden_widths(width, widths, chosen.hidden_dim, chosen.expansion)
        ffn = 3 * width * hidden[0] + width**2
        if chosen.ffn == "code":
            ffn = (widths[-1] + 1) * width
            for (w, out), h in zip(pairwise((width, *widths)), hidden, strict=True):
                ffn += w + 4 * w * h + w * w + 3 * h + 2 * w + (0 if w == out else (w + 1) * out)
        length = tokens * width
        mixing = length**2 + (2 * length + width if chosen.mixing == "code" else 2 * width)
        return chosen.num_layers * (mixing + tokens * ffn)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """The whole number below ``width``; the hidden width makes up for the rest."""
        chosen = cls.Options(**{**options, "num_tokens": num_tokens, "num_layers": 1, "ffn_dims": None})
        dim = max(1, int(width)) if token_dim is None else token_dim

        def count(hidden_dim: int) -> int:
            return cls.formula(**vars(replace(chosen, token_dim=dim, hidden_dim=hidden_dim)))

        wanted = count(max(1, int(float(chosen.expansion) * dim))) * (width / dim) ** 2
        return {"token_dim": dim, "hidden_dim": max(1, round((wanted - count(0)) / (count(1) - count(0))))}


def ffn_widths(token_dim: int, ffn: str, ffn_dims: Sequence[int] | None) -> tuple[int, ...]:
    """Return the widths after the gated layers of one FFN."""
    if ffn_dims is None:
        return (token_dim,)
    if ffn == "paper" or not ffn_dims:
        raise UnimixerError(f"ffn_dims={tuple(ffn_dims)} needs ffn='code' and at least one width; leave it out")
    check_positive(ffn_dims=min(ffn_dims))
    return tuple(ffn_dims)


def hidden_widths(token_dim: int, widths: Sequence[int], hidden_dim: int | None, expansion: float) -> list[int]:
    """Return the hidden width inside every gated layer."""
    inputs = (token_dim, *widths)[:-1]
    return [max(1, int(expansion * width)) if hidden_dim is None else hidden_dim for width in inputs]
