"""UniMixer and UniMixing-Lite: learned mixing and per-token SwiGLU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from unimixer import ops
from unimixer.backbones.base import Backbone, nearest_multiple
from unimixer.blocks import (
    build_ffn,
    build_norm,
    build_stream,
    ffn_matrices,
    ffn_parameters,
    matched_hidden,
    sensible_ffn,
)
from unimixer.blocks.cross_attention import attention_parameters, build_attention
from unimixer.blocks.residual import Block, count_norms
from unimixer.errors import check_divisible, check_positive
from unimixer.mixing import Mixing, UniMixing, UniMixingLite
from unimixer.mixing.initialization import rule_heads

NARROWEST_BLOCK = 4
"""Least width of a block where none is given, as far as the heads of the rule allow."""
MIXING_SHARE = 0.75
"""Largest share of a block's parameters that its mixing may take before the rule starts with fewer heads."""


class UniMixer(Backbone):
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
        init: ``"rule"``, ``"identity"`` or ``"random"``.
        init_scale: see :class:`~unimixer.mixing.UniMixing`.
        temperature: of Sinkhorn, at the start.
        symmetric: constrain mixing matrices to be symmetric.
        doubly_stochastic: constrain them by Sinkhorn scaling.
        local: ``"doubly_stochastic"``, ``"shared"`` or ``"free"``.
        ffn: ``"swiglu"``, ``"gelu"``, ``"relu-moe"`` or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"rms"`` or ``"layer"``.
        residual: ``"post"``, ``"pre"`` or ``"siamese"``.
        siamese_scale: ``"none"``, ``"sublayer"`` or ``"official"``; this and the next two belong to ``"siamese"``.
        siamese_input_norm: normalise the sum of both streams.
        siamese_readout: ``"sum"``, ``"sum_norm"`` or ``"x"``.
        sequence_dim: width of events that a third sublayer between mixing and FFN attends to, see
            :class:`~unimixer.blocks.CrossAttention` (default: there is none; ``Ranker(sequences="cross_attention")``
            sets it).
        sequence_head_dim: width of its queries, keys and values (default: D).
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``

    Example:
        >>> UniMixer(num_tokens=4, token_dim=16, hidden_dim=32)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    family: ClassVar[str] = "mixer"
    default_tokenizer: ClassVar[Literal["chunk", "field"]] = "chunk"

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        token_dim: int = 64,
        num_blocks: int = 2,
        hidden_dim: int | None = None,
        expansion: float = 2.0,
        block_size: int | None = None,
        rank: int | None = None,
        num_basis: int = 4,
        num_heads: int | None = None,
        init: str = "rule",
        init_scale: float = 1.0,
        temperature: float = 0.1,
        symmetric: bool = True,
        doubly_stochastic: bool = True,
        local: str = "doubly_stochastic",
        ffn: str = "swiglu",
        ffn_options: Mapping[str, Any] | None = None,
        norm: str = "rms",
        residual: str = "post",
        siamese_scale: str = "none",
        siamese_input_norm: bool = False,
        siamese_readout: str = "sum",
        sequence_dim: int | None = None,
        sequence_head_dim: int | None = None,
        sequence_hidden_dim: int | None = None,
    ) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)
        check_positive(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks)
        if block_size is not None:
            check_positive(block_size=block_size)
        if init == "rule" and num_heads is None:
            if block_size is None:
                check_divisible("token_dim", token_dim, by="num_tokens", divisor=num_tokens)
            else:
                check_divisible("token_dim", token_dim, by="num_tokens * block_size", divisor=num_tokens * block_size)
            num_heads = num_tokens
        block_size = block_size or _block_size(num_tokens, token_dim, init, num_heads)
        hidden_dim = max(1, round(expansion * token_dim)) if hidden_dim is None else hidden_dim

        def build_mixing() -> Mixing:
            options: dict[str, Any] = {
                "num_heads": num_heads,
                "init": init,
                "init_scale": init_scale,
                "temperature": temperature,
                "symmetric": symmetric,
                "doubly_stochastic": doubly_stochastic,
                "local": local,
            }
            if rank is None:
                return UniMixing(num_tokens * token_dim, block_size, **options)
            return UniMixingLite(num_tokens * token_dim, block_size, rank=rank, num_basis=num_basis, **options)

        self.sequence_dim = sequence_dim

        def build_block() -> Block:
            mixing = build_mixing()
            attention = build_attention(num_tokens, token_dim, sequence_dim, sequence_head_dim, sequence_hidden_dim)
            return mixing, *attention, build_ffn(ffn, num_tokens, token_dim, hidden_dim, ffn_options)

        blocks = [build_block() for _ in range(num_blocks)]
        self.stack = build_stream(
            residual,
            blocks,
            token_dim,
            lambda width: build_norm(norm, width),
            scale=siamese_scale,
            input_norm=siamese_input_norm,
            readout=siamese_readout,
        )

    def forward(self, tokens: Tensor, events: Tensor | None = None, event_mask: Tensor | None = None) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        self.check_events(events, event_mask)
        output: Tensor = self.stack(ops.batch_last(tokens), events, event_mask)
        return ops.batch_first(output)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's mixing, T FFNs and norms.

        UniMixing has :math:`N^2 + N b^2` parameters, UniMixing-Lite :math:`2 N r + n_b b^2 + N n_b`, with
        :math:`N = T D / b`; FFN, norm and attention to events as in RankMixer.
        """
        given = {name: option.default for name, option in cls.options().items()} | arguments
        num_tokens, token_dim, num_blocks = (int(given[key]) for key in ("num_tokens", "token_dim", "num_blocks"))
        hidden_dim = given["hidden_dim"] or max(1, round(given["expansion"] * token_dim))
        length = num_tokens * token_dim
        heads = given["num_heads"] or num_tokens
        block_size = given["block_size"] or _block_size(num_tokens, token_dim, given["init"], heads)
        mixing = cls._mixing_parameters(length, int(block_size), given)
        ffn = ffn_parameters(given["ffn"], num_tokens, token_dim, hidden_dim, given["ffn_options"])
        attention = attention_parameters(num_tokens, token_dim, given)
        norms = count_norms(
            given["residual"],
            num_blocks,
            attention=given["sequence_dim"] is not None,
            input_norm=given["siamese_input_norm"],
            readout=given["siamese_readout"],
        )
        norm = token_dim * (1 + (given["norm"] == "layer"))
        return int(num_blocks * (mixing + ffn + attention) + norms * norm)

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Width near ``size``; the hidden width takes up rounding and the mixing's own parameters.

        A block, its attention to events included, gets the parameters of an FFN with
        ``token_dim * hidden_dim = expansion * size**2``. The rule moves whole blocks, so D is a multiple of
        ``num_tokens * block_size``, with blocks of at least 4: a small model gets narrow FFNs, and not fewer heads,
        with which tokens meet more slowly. Heads are halved only where the matrices of full UniMixing, at least
        ``num_tokens**4`` numbers, or the attention would not leave room for the FFN, or its experts; ``num_heads``
        fixes them.
        """
        init = options.get("init", "rule")
        rule = init == "rule"
        narrowest = int(options.get("block_size") or NARROWEST_BLOCK)
        ffn, ffn_options = options.get("ffn", "swiglu"), options.get("ffn_options")
        matrices = ffn_matrices(ffn, ffn_options)
        budget = matrices * num_tokens * float(options.get("expansion", 2.0)) * size**2

        def with_heads(heads: int) -> tuple[int, int]:
            """Width, and parameters of the mixing."""
            width = token_dim or nearest_multiple(size, _step(heads, num_tokens, narrowest) if rule else narrowest)
            block_size = options.get("block_size") or _block_size(num_tokens, width, init, heads)
            return width, cls._mixing_parameters(num_tokens * width, int(block_size), options)

        heads = int(options.get("num_heads") or num_tokens)
        if rule and token_dim is not None and "num_heads" not in options:
            heads = rule_heads(num_tokens, num_tokens * token_dim, narrowest)
        width, mixing = with_heads(heads)

        def crowded() -> bool:
            least = sensible_ffn(ffn, num_tokens, width, ffn_options)
            attention = attention_parameters(num_tokens, width, options)
            return mixing > MIXING_SHARE * budget or mixing + attention + least > budget

        while rule and "num_heads" not in options and heads % 2 == 0 and crowded():
            heads //= 2
            width, mixing = with_heads(heads)
        attention = attention_parameters(num_tokens, width, options)
        hidden = (budget - mixing - attention) / (matrices * num_tokens * width)
        hidden_dim = matched_hidden(ffn, num_tokens, width, hidden, ffn_options)
        return {"token_dim": width, "hidden_dim": hidden_dim} | ({"num_heads": heads} if rule else {})

    @classmethod
    def _mixing_parameters(cls, length: int, block_size: int, options: dict[str, Any]) -> int:
        local = str(options.get("local", "doubly_stochastic"))
        default = cls.options()["rank"].default
        rank = options.get("rank", default)
        if rank is None:
            return UniMixing.num_parameters(length, block_size, local=local)
        num_basis = int(options.get("num_basis", 4))
        return UniMixingLite.num_parameters(length, block_size, rank=rank, num_basis=num_basis, local=local)


def _block_size(num_tokens: int, token_dim: int, init: str, num_heads: int | None) -> int:
    """Width of a block where none is given; a head of the rule is ``T D / num_heads**2`` wide."""
    length = num_tokens * token_dim
    head = length // num_heads**2 if init == "rule" and num_heads else length
    return max(1, math.gcd(head, max(NARROWEST_BLOCK, token_dim // num_tokens)))


def _step(num_heads: int, num_tokens: int, block_size: int) -> int:
    """The smallest D such that ``num_heads**2 * block_size`` divides ``num_tokens * D``."""
    wanted = num_heads**2 * block_size
    return next(dim for dim in range(1, wanted + 1) if num_tokens * dim % wanted == 0)


class UniMixerLite(UniMixer):
    """:class:`UniMixer` with UniMixing-Lite: rank and basis by default.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> UniMixerLite(num_tokens=4, token_dim=16, rank=8)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    def __init__(self, *, rank: int = 16, num_basis: int = 4, **options: Any) -> None:
        super().__init__(rank=rank, num_basis=num_basis, **options)
