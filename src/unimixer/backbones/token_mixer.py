"""One stack of a mixing and per-token FFNs, whatever the mixing: controls, sums of patterns, a matrix a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unimixer.backbones.mixer import StreamOptions
from unimixer.backbones.rankmixer import RankMixer
from unimixer.errors import UnimixerError, check_choice, check_divisible
from unimixer.mixing import (
    FactorizationMixing,
    IdentityLocal,
    Mixing,
    PerHeadGlobal,
    SharedLinear,
    SoftmaxAttention,
    Sum,
    TokenMixing,
    Unified,
    no_mixing,
    random_orthogonal,
    random_permutation,
)


@dataclass(frozen=True, kw_only=True)
class TokenMixerOptions(StreamOptions):
    """Keyword arguments of :class:`TokenMixer`; their meaning is there."""

    expansion: float = 2.0
    ffn: str = "swiglu"
    norm: str = "rms"
    mixing: str = "rule"
    num_heads: int | None = None
    init: str | None = None
    mixing_seed: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """T and D."""
        return self.num_tokens, self.token_dim

    def check(self) -> None:
        """Raise for an unknown mixing, or for an option that this one does not read."""
        check_choice("mixing", self.mixing, tuple(MIXINGS))
        for option, readers in _READERS.items():
            if getattr(self, option) is not None and self.mixing not in readers:
                raise UnimixerError(
                    f"{option}={getattr(self, option)!r} has no use with mixing={self.mixing!r}; leave it out, or take "
                    f"mixing {' or '.join(map(repr, readers))}"
                )
        if self.num_heads is not None:
            check_divisible("token_dim", self.token_dim, by="num_heads", divisor=self.num_heads)


def _rule_and_fm(options: TokenMixerOptions) -> Mixing:
    tokens, width = options.shape
    machine = FactorizationMixing(tokens, width, width)
    return Sum(TokenMixing(tokens, width), machine, scale=1 / width)  # a normed token times itself is D


def _rule_and_attention(options: TokenMixerOptions) -> Mixing:
    tokens, width = options.shape
    value, query, key = (SharedLinear(tokens, width, width) for _ in range(3))
    heads = math.gcd(4, width) if options.num_heads is None else options.num_heads
    return Sum(TokenMixing(tokens, width), Unified(value, SoftmaxAttention(query, key, num_heads=heads)))


def _per_head(options: TokenMixerOptions) -> Mixing:
    tokens, width = options.shape
    matrices = PerHeadGlobal(tokens, options.num_heads or tokens, options.init or "orthogonal")
    return Unified(IdentityLocal(tokens, width), matrices)


MIXINGS: dict[str, Callable[[TokenMixerOptions], Mixing]] = {
    "rule": lambda o: TokenMixing(*o.shape),
    "none": lambda o: no_mixing(*o.shape),
    "random-permutation": lambda o: random_permutation(*o.shape, seed=o.mixing_seed or 0),
    "balanced-permutation": lambda o: random_permutation(*o.shape, balanced=True, seed=o.mixing_seed or 0),
    "random-orthogonal": lambda o: random_orthogonal(*o.shape, seed=o.mixing_seed or 0),
    "rule+fm": _rule_and_fm,
    "rule+attention": _rule_and_attention,
    "per-head": _per_head,
}
"""Makers of the mixings by their names."""
_READERS = {
    "num_heads": ("per-head", "rule+attention"),
    "init": ("per-head",),
    "mixing_seed": ("random-permutation", "balanced-permutation", "random-orthogonal"),
}
"""The mixings that read an option."""


class TokenMixer(RankMixer):
    r"""A stack of any token mixing and per-token FFNs, to compare mixings in one stack.

    .. math:: S = \mathrm{N}(X + \mathrm{Mix}(X)), \qquad X' = \mathrm{N}(S + \mathrm{FFN}(S))

    With ``mixing="rule"`` this is :class:`RankMixer` with SwiGLU and RMSNorm as defaults. A mixing without learned
    numbers is the same in every block, as the rule is. Blocks of the rule are N = T^2 pieces of width D / T.

    Args:
        num_tokens: T.
        token_dim: D, divisible by T.
        num_blocks: blocks of one mixing and one FFN.
        mixing: ``"rule"``: the permutation of TokenMixer (arXiv:2507.15551). Controls that learn nothing:
            ``"none"``: tokens never meet; ``"random-permutation"`` of the N blocks; ``"balanced-permutation"``: a
            random one by which every token receives one block of every token; ``"random-orthogonal"``: a matrix
            between the N blocks. Sums: ``"rule+fm"``: the rule and :math:`\gamma X X^T Y` with a learned Y (T, D);
            ``"rule+attention"``: the rule and :math:`\gamma` times self-attention; :math:`\gamma` is a learned number
            that starts at 1 / D and .1. ``"per-head"``: a free T x T matrix a head (MTmixAtt, arXiv:2510.15286).
        num_heads: heads of ``"per-head"`` (default T) and of the attention (default 4, or the largest power of two
            below that divides D).
        init: start of ``"per-head"``: ``"orthogonal"`` (default), ``"zero"`` or ``"random"``.
        mixing_seed: decides on a random matrix or permutation (default 0); the seed of the training does not.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"swiglu"``, ``"gelu"``, ``"relu-moe"`` or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"rms"`` or ``"layer"``.
        residual: ``"post"``, ``"pre"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.
        sequence_dim: as in :class:`RankMixer`, like the next two.
        sequence_head_dim: width of queries, keys and values (default: D).
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.
        dots: send dot products of all pairs of tokens past the stack to the towers, of those that enter it and of those
            that leave it, see :class:`~unimixer.backbones.mixer.MixerBackbone`.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``, with ``dots`` beside features ``(B, T (T - 1))``

    Example:
        >>> import torch
        >>> TokenMixer(num_tokens=4, token_dim=16, mixing="per-head")(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = TokenMixerOptions
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"mixing": name} for name in MIXINGS if name != "rule")

    def build(self, options: TokenMixerOptions) -> None:
        """Build the residual stream."""
        options.check()
        super().build(options)

    def build_mixing(self, options: TokenMixerOptions) -> Mixing:
        """Build the mixing of one block."""
        return MIXINGS[options.mixing](options)

    @classmethod
    def mixing_parameters(cls, options: TokenMixerOptions) -> int:
        r"""None in a fixed mixing; :math:`T D + 1` with FM, :math:`3 D^2 + 1` with attention, :math:`H T^2` a head."""
        tokens, width = options.shape
        learned = {
            "rule+fm": tokens * width + 1,
            "rule+attention": 3 * width**2 + 1,
            "per-head": (options.num_heads or tokens) * tokens**2,
        }
        return learned.get(options.mixing, 0)
