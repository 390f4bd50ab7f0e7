"""UniMixer and UniMixing-Lite: learned mixing and per-token SwiGLU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from unimixer.backbones.base import nearest_multiple
from unimixer.backbones.mixer import MixerBackbone, StreamOptions
from unimixer.blocks import ffn_matrices, matched_hidden, sensible_ffn
from unimixer.errors import UnimixerError, check_choice, check_divisible, check_positive
from unimixer.mixing import HeadUniMixing, Mixing, UniMixing, UniMixingLite
from unimixer.mixing.constraint import GENERATED
from unimixer.mixing.initialization import DRAWN, rule_heads
from unimixer.mixing.unimixing import HeadUniMixingOptions, UniMixingLiteOptions, UniMixingOptions

MATRICES = ("blocks", "heads")
BLOCKS_ONLY = ("block_size", "rank", "num_basis", "gate", "num_permutations", "local")
"""Options that a matrix a head does not read."""
_BY_MATRICES = ("init_scale", "symmetric")
"""Options whose default is that of the matrices."""
NARROWEST_BLOCK = 4
"""Least width of a block where none is given, as far as the heads of the rule allow."""
MIXING_SHARE = 0.75
"""Largest share of a block's parameters that its mixing may take before the rule starts with fewer heads."""


@dataclass(frozen=True, kw_only=True)
class UniMixerOptions(StreamOptions):
    """Keyword arguments of :class:`UniMixer`; their meaning is there."""

    expansion: float = 2.0
    ffn: str = "swiglu"
    norm: str = "rms"
    block_size: int | None = None
    rank: int | None = None
    num_basis: int = 4
    num_heads: int | None = None
    matrices: str = "blocks"
    init: str = "rule"
    init_scale: float | None = None
    temperature: float = 0.1
    symmetric: bool | None = None
    constraint: str = "sinkhorn"
    gate: float | None = None
    range_cap: float | None = None
    num_permutations: int = 16
    local: str = "doubly_stochastic"

    def check(self, given: Iterable[str]) -> None:
        """Raise for unknown matrices, or for an option of those given that they do not read."""
        check_choice("matrices", self.matrices, MATRICES)
        for name in given if self.matrices == "heads" else ():
            if name in BLOCKS_ONLY:
                raise UnimixerError(
                    f"{name}={getattr(self, name)!r} has no use with matrices='heads'; leave it out, or take "
                    "matrices 'blocks'"
                )

    @property
    def uses_rule(self) -> bool:
        """Whether the rule has to move whole blocks: as the start, or as the permutation of the constraint."""
        drawn = self.init in DRAWN and (self.gate is not None or self.constraint in GENERATED)
        return self.init == "rule" or drawn

    def mixing_block(self, num_heads: int | None) -> int:
        """Width of a block of the mixing: as given, or the widest that fits; heads are those of the rule."""
        return int(self.block_size or _block_size(self.num_tokens, self.token_dim, self.uses_rule, num_heads))

    def mixing_options(self, num_heads: int | None) -> dict[str, Any]:
        """Keyword arguments of the mixing beside its sizes; heads are those of the rule, or of the matrices."""
        own: Any = HeadUniMixingOptions
        if self.matrices == "blocks":
            own = UniMixingOptions if self.rank is None else UniMixingLiteOptions
        options = {field.name: getattr(self, field.name) for field in fields(own)} | {"num_heads": num_heads}
        return {name: value for name, value in options.items() if name not in _BY_MATRICES or value is not None}

    def learned_mixing(self) -> Mixing:
        """Build the mixing of one block."""
        num_heads = self.num_heads
        if num_heads is None and (self.uses_rule or self.matrices == "heads"):
            num_heads = self.num_tokens
        options = self.mixing_options(num_heads)
        if self.matrices == "heads":
            return HeadUniMixing(self.num_tokens, self.token_dim, **options)
        sizes = (self.num_tokens * self.token_dim, self.mixing_block(num_heads))
        return UniMixing(*sizes, **options) if self.rank is None else UniMixingLite(*sizes, **options)


@dataclass(frozen=True, kw_only=True)
class UniMixerLiteOptions(UniMixerOptions):
    """Keyword arguments of :class:`UniMixerLite`."""

    matrices: str = "heads"
    rank: int | None = 16


class UniMixer(MixerBackbone):
    r"""A stack of learned token mixing and per-token SwiGLU.

    .. math:: O = \mathrm{RMSNorm}(X + \mathrm{UniMixing}(X)), \qquad
              X' = \mathrm{RMSNorm}(O + \mathrm{SwiGLU}(O))

    arXiv:2604.00590, with three defaults of our own that measure better on short logs: the mixing starts from the rule
    of TokenMixer at a low constant temperature, and residuals are post-norm; ``residual="siamese"`` is the paper's.
    A block of the mixing is by default as wide as a head of that rule, :math:`b = D / T`, the widest that can express
    it: the size of the matrix between blocks, :math:`T^2`, then does not depend on D.

    Args:
        num_tokens: T.
        token_dim: D; with ``init="rule"`` and one head a token a multiple of ``num_tokens``, and of
            ``num_tokens * block_size`` where that is given.
        num_blocks: blocks of one mixing and one FFN.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        block_size: width b of a block of the mixing; any divisor of T D, with ``init="rule"`` of the width of a head
            (default: D / T, or 4 where that is less; with other heads the largest that divides both).
        rank: None for UniMixing with full matrices, else the rank of UniMixing-Lite.
        num_basis: basis matrices of UniMixing-Lite.
        num_heads: heads of the starting rule (default T).
        matrices: ``"blocks"``: one matrix between all blocks and one inside every block; ``"heads"``: a T x T matrix
            for every head, see :class:`~unimixer.mixing.HeadUniMixing`.
        init: ``"rule"``, ``"identity"``, ``"random"``, or ``"orthogonal"``.
        init_scale: see :class:`~unimixer.mixing.UniMixing` (default 1; .5 with a matrix a head).
        temperature: of Sinkhorn, at the start.
        symmetric: constrain mixing matrices to be symmetric (default: of blocks, and not of heads).
        constraint: of the matrices, see :class:`~unimixer.mixing.UniMixing`, like ``gate``, ``range_cap`` and
            ``num_permutations``.
        local: ``"doubly_stochastic"``, ``"shared"`` or ``"free"``.
        ffn: ``"swiglu"``, ``"gelu"``, ``"relu-moe"`` or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"rms"`` or ``"layer"``.
        residual: ``"post"``, ``"pre"``, ``"siamese"`` (the paper's), ``"siamese-official"`` or ``"bare-mixing"``, see
            :class:`~unimixer.blocks.Siamese`.
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
        >>> UniMixer(num_tokens=4, token_dim=16, hidden_dim=32)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = UniMixerOptions
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"matrices": "heads"},)

    def __init__(self, **options: Any) -> None:
        self.Options(**options).check(options)
        super().__init__(**options)

    def build(self, options: UniMixerOptions) -> None:
        """Build the residual stream."""
        if options.matrices == "heads":
            super().build(options)
            return
        if options.block_size is not None:
            check_positive(block_size=options.block_size)
        if options.uses_rule and options.num_heads is None:
            heads, block_size = self.num_tokens, options.block_size
            if block_size is None:
                check_divisible("token_dim", self.token_dim, by="num_tokens", divisor=heads)
            else:
                check_divisible("token_dim", self.token_dim, by="num_tokens * block_size", divisor=heads * block_size)
        super().build(options)

    def build_mixing(self, options: UniMixerOptions) -> Mixing:
        """Build the learned mixing of one block."""
        return options.learned_mixing()

    @classmethod
    def mixing_parameters(cls, options: UniMixerOptions) -> int:
        r"""UniMixing has :math:`N^2 + N b^2` parameters, UniMixing-Lite :math:`2 N r + n_b b^2 + N n_b`.

        The number of blocks is :math:`N = T D / b`. With a matrix a head there are :math:`H T^2`.
        """
        if options.matrices == "heads":
            return (options.num_heads or options.num_tokens) * options.num_tokens**2
        block_size = options.mixing_block(options.num_heads or options.num_tokens)
        return _mixing_parameters(options, options.num_tokens * options.token_dim, block_size)

    @classmethod
    def width_step(cls, options: UniMixerOptions) -> int:
        """Heads divide a token where each has a matrix."""
        return options.num_heads or options.num_tokens

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """A token width near ``width``; the hidden width takes up rounding and the mixing's own parameters.

        A block, its attention to events included, gets the parameters of an FFN with
        ``token_dim * hidden_dim = expansion * width**2``. The rule moves whole blocks, so D is a multiple of
        ``num_tokens * block_size``, with blocks of at least 4: a small model gets narrow FFNs, and not fewer heads,
        with which tokens meet more slowly. Heads are halved only where the matrices of full UniMixing, at least
        ``num_tokens**4`` numbers, or the attention would not leave room for the FFN, or its experts; ``num_heads``
        fixes them.
        """
        chosen = cls.Options(**options, num_tokens=num_tokens)
        if chosen.matrices == "heads":
            fitting = {}
            if token_dim is not None and chosen.num_heads is None:
                fitting = {"num_heads": max(h for h in range(1, num_tokens + 1) if token_dim % h == 0)}
            sizes = super().dimensions(width, num_tokens=num_tokens, token_dim=token_dim, **options, **fitting)
            return {**sizes, **fitting}
        rule, narrowest = chosen.uses_rule, int(chosen.block_size or NARROWEST_BLOCK)
        ffn, ffn_options = chosen.ffn, chosen.ffn_options
        matrices = ffn_matrices(ffn, ffn_options)
        budget = matrices * num_tokens * float(chosen.expansion) * width**2

        def with_heads(heads: int) -> tuple[int, int]:
            """Token width, and parameters of the mixing."""
            step = _step(heads, num_tokens, narrowest) if rule else narrowest
            dim = token_dim or nearest_multiple(width, step)
            block_size = int(chosen.block_size or _block_size(num_tokens, dim, rule, heads))
            return dim, _mixing_parameters(chosen, num_tokens * dim, block_size)

        heads = int(chosen.num_heads or num_tokens)
        if rule and token_dim is not None and "num_heads" not in options:
            heads = rule_heads(num_tokens, num_tokens * token_dim, narrowest)
        dim, mixing = with_heads(heads)

        def crowded() -> bool:
            least = sensible_ffn(ffn, num_tokens, dim, ffn_options)
            attention = chosen.attention_parameters(num_tokens, dim)
            return mixing > MIXING_SHARE * budget or mixing + attention + least > budget

        while rule and "num_heads" not in options and heads % 2 == 0 and crowded():
            heads //= 2
            dim, mixing = with_heads(heads)
        attention = chosen.attention_parameters(num_tokens, dim)
        hidden = (budget - mixing - attention) / (matrices * num_tokens * dim)
        hidden_dim = matched_hidden(ffn, num_tokens, dim, hidden, ffn_options)
        return {"token_dim": dim, "hidden_dim": hidden_dim} | ({"num_heads": heads} if rule else {})


def _mixing_parameters(options: UniMixerOptions, length: int, block_size: int) -> int:
    mixing = UniMixing if options.rank is None else UniMixingLite
    return mixing.num_parameters(length, block_size, **options.mixing_options(options.num_heads))


def _block_size(num_tokens: int, token_dim: int, rule: bool, num_heads: int | None) -> int:
    """Width of a block where none is given; a head of the rule is ``T D / num_heads**2`` wide."""
    length = num_tokens * token_dim
    head = length // num_heads**2 if rule and num_heads else length
    return max(1, math.gcd(head, max(NARROWEST_BLOCK, token_dim // num_tokens)))


def _step(num_heads: int, num_tokens: int, block_size: int) -> int:
    """Return the smallest D such that ``num_heads**2 * block_size`` divides ``num_tokens * D``."""
    wanted = num_heads**2 * block_size
    return next(dim for dim in range(1, wanted + 1) if num_tokens * dim % wanted == 0)


class UniMixerLite(UniMixer):
    r""":class:`UniMixer` with few parameters in the mixing: a matrix a head by default.

    .. math:: out^h = \mathrm{Sinkhorn}(W_h / \tau)\, x^h, \qquad h = 1, \dots, H

    ``matrices="blocks"`` is UniMixing-Lite of arXiv:2604.00590, :class:`~unimixer.mixing.UniMixingLite`. A matrix a
    head, :class:`~unimixer.mixing.HeadUniMixing`, moves in training where that one, started from the rule, does not
    (docs/mixing.md), and costs a fraction of its FLOPs. All arguments are those of :class:`UniMixer`.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> UniMixerLite(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = UniMixerLiteOptions
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"matrices": "blocks"},)
