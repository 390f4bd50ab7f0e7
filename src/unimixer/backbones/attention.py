"""The base of attention backbones: the sublayer, the sizes that follow from a width, and the count of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from unimixer.backbones.base import StackBackbone, StackShape, nearest_multiple
from unimixer.blocks import build_ffn, build_norm, build_stream
from unimixer.blocks.ffn import HiddenOptions
from unimixer.blocks.residual import ResidualOptions, count_norms
from unimixer.errors import check_choice, check_divisible
from unimixer.mixing import Local, SoftmaxAttention, Unified

FFNS = ("gelu", "swiglu")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(ResidualOptions, HiddenOptions, StackShape):
    """Options that every attention backbone has."""

    num_heads: int = 4


@dataclass(frozen=True, kw_only=True)
class GatedAttentionOptions(AttentionOptions):
    """Options of an attention backbone whose FFNs may have a gate."""

    ffn: str = "gelu"


class AttentionSublayer(nn.Module):
    r"""Softmax attention over values, heads side by side, then a linear map of the result.

    .. math:: y_i = \Big[ \sum_j A^1_{ij} v^1_j \,\Vert\, \dots \,\Vert\, \sum_j A^H_{ij} v^H_j \Big] O_i

    arXiv:1706.03762, "multi-head attention"; as a mixing, the value is the pattern inside a block (a token) and the
    attention weights are the pattern between blocks (arXiv:2604.00590, "unified form").

    Args:
        query: tokens to queries of all heads.
        key: tokens to keys of all heads.
        value: tokens to values of all heads.
        output: the map O, shared or own for every token; None leaves the heads as they are.
        num_heads: H.
        options: further arguments of :class:`~unimixer.mixing.SoftmaxAttention`.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, M, D)``, a token for every query

    Example:
        >>> import torch
        >>> from unimixer.mixing import SharedLinear
        >>> query, key, value, output = (SharedLinear(4, 6, 6) for _ in range(4))
        >>> AttentionSublayer(query, key, value, output, num_heads=2)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(
        self, query: Local, key: Local, value: Local, output: Local | None, *, num_heads: int, **options: bool
    ) -> None:
        super().__init__()
        self.mixing = Unified(value, SoftmaxAttention(query, key, num_heads=num_heads, **options))
        self.mixing.out_blocks = query.out_blocks
        self.output: nn.Module = nn.Identity() if output is None else output

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend and project."""
        output: Tensor = self.output(self.mixing(tokens))
        return output


class AttentionBackbone(StackBackbone):
    """Base of attention backbones: a stack of attention and FFN sublayers in a residual stream.

    A subclass gives :meth:`build_block` and :meth:`around_ffn`; the other counts have defaults for FFNs of their own in
    every token.
    """

    family: ClassVar[str] = "attention"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "chunk"
    Options: ClassVar[Any] = AttentionOptions
    stack: nn.Module

    def build(self, options: Any) -> None:
        """Build the residual stream."""
        self.check(options)
        blocks = [self.build_block(options) for _ in range(options.num_blocks)]
        self.stack = self.build_stack(blocks, options)

    def check(self, options: Any) -> None:
        """Raise for options that do not fit."""
        check_divisible("token_dim", self.token_dim, by="num_heads", divisor=options.num_heads)
        if isinstance(options, GatedAttentionOptions):
            check_choice("ffn", options.ffn, FFNS)

    def build_block(self, options: Any) -> tuple[nn.Module, nn.Module]:
        """Build the attention and the FFN of one block."""
        raise NotImplementedError

    def build_ffn(self, options: Any, num_tokens: int | None = None) -> nn.Module:
        """Build an FFN with weights of its own for every token."""
        num_tokens = self.num_tokens if num_tokens is None else num_tokens
        return build_ffn(options.ffn, num_tokens, self.token_dim, options.hidden(self.token_dim))

    def build_stack(self, blocks: Sequence[tuple[nn.Module, nn.Module]], options: Any) -> nn.Module:
        """Build the residual stream around the sublayers."""
        return build_stream(options.residual, blocks, self.token_dim, partial(build_norm, options.norm))

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        output: Tensor = self.stack(tokens)
        return output

    @classmethod
    def around_ffn(cls, options: Any, token_dim: float) -> float:
        """Parameters of all blocks but for FFNs and norms, at a width that need not be whole."""
        raise NotImplementedError

    @classmethod
    def count_blocks(cls, options: Any) -> int:
        """Blocks of one attention and one FFN."""
        return int(options.num_blocks)

    @classmethod
    def count_ffns(cls, options: Any) -> int:
        """FFNs with weights of their own, over all blocks and tokens."""
        return cls.count_blocks(options) * int(options.num_tokens)

    @classmethod
    def count_norms(cls, options: Any) -> int:
        """Norms of the residual stream."""
        return count_norms(options.residual, cls.count_blocks(options))

    @classmethod
    def ffn_maps(cls, options: Any) -> int:
        """Matrices of D times hidden in one FFN."""
        if not isinstance(options, GatedAttentionOptions):
            return 2
        check_choice("ffn", options.ffn, FFNS)
        return 3 if options.ffn == "swiglu" else 2

    @classmethod
    def ffn_biases(cls, options: Any, token_dim: int, hidden_dim: int) -> int:
        """Biases of one FFN."""
        return (cls.ffn_maps(options) - 1) * hidden_dim + token_dim

    @classmethod
    def follows(cls, width: float, options: Any) -> dict[str, float]:
        """Sizes other than D and hidden that follow from the width, where the user does not give them."""
        return {}

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Attention by its own formula, and :math:`m D h` and biases an FFN, m = 2 (GELU) or 3 (SwiGLU); norms.

        A layer norm has 2 D, an RMS norm D; ``"post"`` and ``"pre"`` have two norms a block and ``"pre"`` one more,
        ``"siamese"`` three a block and one more.
        """
        chosen = cls.Options(**arguments)
        token_dim = int(chosen.token_dim)
        hidden_dim = int(chosen.hidden(token_dim))
        ffn = cls.ffn_maps(chosen) * token_dim * hidden_dim + cls.ffn_biases(chosen, token_dim, hidden_dim)
        norm = token_dim * (2 if chosen.norm == "layer" else 1)
        return int(cls.around_ffn(chosen, token_dim)) + cls.count_ffns(chosen) * ffn + cls.count_norms(chosen) * norm

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the multiple of H nearest to ``width``; the hidden width takes up the rounding.

        The hidden width is such that attention and FFNs together have the weights that they would have at exactly
        ``width``, hence parameters grow smoothly; a given ``token_dim`` leaves the hidden width alone to grow. Where
        attention would leave less than half of the usual hidden width, D is the multiple of H below ``width``.
        """
        chosen = cls.Options(**options, num_tokens=num_tokens)
        exact = {name: value for name, value in cls.follows(width, chosen).items() if name not in options}
        whole = {name: max(1, round(value)) for name, value in exact.items()}
        per_width = cls.ffn_maps(chosen) * cls.count_ffns(chosen)
        wanted = cls.around_ffn(replace(chosen, **exact), width) + per_width * float(chosen.expansion) * width**2

        def hidden(dim: int) -> float:
            return (wanted - cls.around_ffn(replace(chosen, **whole), dim)) / (per_width * dim)

        heads = max(1, int(chosen.num_heads))
        dim = nearest_multiple(width, heads) if token_dim is None else token_dim
        if token_dim is None and hidden(dim) < float(chosen.expansion) * dim / 2:
            dim = max(1, int(width) // heads) * heads
        return {"token_dim": dim, "hidden_dim": max(1, round(hidden(dim))), **whole}
