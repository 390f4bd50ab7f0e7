"""What attention backbones share: the sublayer, the sizes that follow from a dial, and the count of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from unimixer.backbones.base import Backbone, nearest_multiple
from unimixer.blocks import build_norm, build_stream
from unimixer.errors import check_choice, check_divisible, check_positive
from unimixer.mixing import Local, SoftmaxAttention, Unified

Arguments = dict[str, Any]


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


class AttentionBackbone(Backbone):
    """Base of attention backbones: a stack of attention and FFN sublayers in a residual stream.

    A subclass builds its sublayers, calls :meth:`stacked`, and gives :meth:`around_ffn`; the other counts have
    defaults for FFNs of their own in every token.
    """

    family: ClassVar[str] = "attention"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "chunk"
    stack: nn.Module

    def stacked(self, blocks: Sequence[tuple[nn.Module, nn.Module]], residual: str, norm: str) -> nn.Module:
        """The residual stream around the sublayers."""
        return build_stream(residual, blocks, self.token_dim, lambda width: build_norm(norm, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        output: Tensor = self.stack(tokens)
        return output

    @classmethod
    def around_ffn(cls, given: Arguments, token_dim: float) -> float:
        """Parameters of all blocks but for FFNs and norms, at a width that need not be whole."""
        raise NotImplementedError

    @classmethod
    def count_blocks(cls, given: Arguments) -> int:
        """Blocks of one attention and one FFN."""
        return int(given["num_blocks"])

    @classmethod
    def count_ffns(cls, given: Arguments) -> int:
        """FFNs with weights of their own, over all blocks and tokens."""
        return cls.count_blocks(given) * int(given["num_tokens"])

    @classmethod
    def count_norms(cls, given: Arguments) -> int:
        """Norms of the residual stream."""
        blocks, residual = cls.count_blocks(given), given["residual"]
        check_choice("residual", residual, ("post", "pre", "siamese"))
        norms: dict[str, int] = {"post": 2 * blocks, "pre": 2 * blocks + 1, "siamese": 3 * blocks + 1}
        return norms[residual]

    @classmethod
    def ffn_maps(cls, given: Arguments) -> int:
        """Matrices of D times hidden in one FFN."""
        check_choice("ffn", given["ffn"], ("gelu", "swiglu"))
        return 3 if given["ffn"] == "swiglu" else 2

    @classmethod
    def ffn_biases(cls, given: Arguments, token_dim: int, hidden_dim: int) -> int:
        """Biases of one FFN."""
        return (cls.ffn_maps(given) - 1) * hidden_dim + token_dim

    @classmethod
    def follows(cls, size: float, given: Arguments) -> Arguments:
        """Sizes other than D and hidden that follow from the dial, where the user does not give them."""
        return {}

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Attention by its own formula, and :math:`m D h` and biases an FFN, m = 2 (GELU) or 3 (SwiGLU); norms.

        A layer norm has 2 D, an RMS norm D; ``"post"`` and ``"pre"`` have two norms a block and ``"pre"`` one more,
        ``"siamese"`` three a block and one more.
        """
        given = cls._given(arguments)
        token_dim = int(given["token_dim"])
        hidden_dim = hidden_width(given["hidden_dim"], given["expansion"], token_dim)
        ffn = cls.ffn_maps(given) * token_dim * hidden_dim + cls.ffn_biases(given, token_dim, hidden_dim)
        norm = token_dim * (2 if given["norm"] == "layer" else 1)
        return int(cls.around_ffn(given, token_dim)) + cls.count_ffns(given) * ffn + cls.count_norms(given) * norm

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """The multiple of H nearest to ``size``; the hidden width takes up the rounding.

        The hidden width is such that attention and FFNs together have the weights that they would have at exactly
        ``size``, hence parameters grow smoothly; a given ``token_dim`` leaves the hidden width alone to grow. Where
        attention would leave less than half of the usual hidden width, D is the multiple of H below ``size``.
        """
        given = cls._given(options | {"num_tokens": num_tokens})
        exact = {name: value for name, value in cls.follows(size, given).items() if name not in options}
        whole = {name: max(1, round(value)) for name, value in exact.items()}
        per_width = cls.ffn_maps(given) * cls.count_ffns(given)
        wanted = cls.around_ffn(given | exact, size) + per_width * float(given["expansion"]) * size**2

        def hidden(width: int) -> float:
            return (wanted - cls.around_ffn(given | whole, width)) / (per_width * width)

        heads = max(1, int(given["num_heads"]))
        width = nearest_multiple(size, heads) if token_dim is None else token_dim
        if token_dim is None and hidden(width) < float(given["expansion"]) * width / 2:
            width = max(1, int(size) // heads) * heads
        return {"token_dim": width, "hidden_dim": max(1, round(hidden(width))), **whole}

    @classmethod
    def _given(cls, arguments: Arguments) -> Arguments:
        return {name: option.default for name, option in cls.options().items()} | arguments


def hidden_width(hidden_dim: int | None, expansion: float, token_dim: int) -> int:
    """Hidden units: as given, or a multiple of the width.

    Example:
        >>> hidden_width(None, 4.0, 16), hidden_width(10, 4.0, 16)
        (64, 10)
    """
    return max(1, round(expansion * token_dim)) if hidden_dim is None else hidden_dim


def check_sizes(*, num_tokens: int, token_dim: int, num_blocks: int, num_heads: int) -> None:
    """Raise unless all sizes are positive and heads divide the width."""
    check_positive(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks)
    check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
