"""FinalMLP: two deep networks on gated copies of the tokens, joined by a bilinear product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.backbones.base import FieldBackbone, FieldShape, nearest_multiple
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.errors import UnimixerError, check_divisible, check_positive


class FeatureGate(nn.Module):
    r"""Gate every number of the flattened tokens between 0 and 2: :math:`x \odot 2 \sigma(\mathrm{MLP}(c))`.

    FinalMLP (arXiv:2304.00902), "stream-specific feature selection". The context c is one learned vector, hence one
    gate for all rows, or some of the tokens. The learned vector starts at 0.01 times normal noise: at zero, the first
    layer would get no gradient in the first step.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T * D)``

    Example:
        >>> FeatureGate(4, 16, hidden_dims=(32,), context=(0, 2))(torch.ones(3, 4, 16)).shape
        torch.Size([3, 64])
    """

    def __init__(self, num_tokens: int, token_dim: int, *, hidden_dims: Sequence[int], context: Sequence[int]) -> None:
        super().__init__()
        outside = [index for index in context if not 0 <= index < num_tokens]
        if outside:
            raise UnimixerError(f"context token {outside[0]} does not exist; tokens are 0 to {num_tokens - 1}")
        self.learned = None if context else nn.Parameter(0.01 * torch.randn(1, token_dim))
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(list(context), dtype=torch.long), persistent=False)
        in_dim = token_dim * max(1, len(context))
        out_dim = hidden_dims[-1] if hidden_dims else in_dim
        self.hidden = hidden_layers(in_dim, hidden_dims, batch_norm=False, dropout=0.0)
        self.output = nn.Linear(out_dim, num_tokens * token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Gate the flattened tokens."""
        context = tokens[:, self.columns].flatten(1) if self.learned is None else self.learned
        gate = 2 * torch.sigmoid(self.output(self.hidden(context)))
        return tokens.flatten(1) * gate.to(tokens.dtype)


class BilinearHeads(nn.Module):
    r"""One number a head from the pieces of two vectors, :math:`o_{1h}^\top W_h\, o_{2h}`.

    FinalMLP (arXiv:2304.00902), "stream-level interaction aggregation". Starts uniform in :math:`\pm 1 / \sqrt{n}`, n
    being the number of products that a head sums.

    Shape:
        - first: ``(B, d_1)``, second: ``(B, d_2)``, both widths divisible by H; output: ``(B, H)``

    Example:
        >>> BilinearHeads(8, 4, num_heads=2)(torch.ones(3, 8), torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, first_dim: int, second_dim: int, num_heads: int) -> None:
        super().__init__()
        shape = (num_heads, first_dim // num_heads, second_dim // num_heads)
        bound = (shape[1] * shape[2]) ** -0.5
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Multiply head by head."""
        heads, first_dim, second_dim = self.weight.shape
        mapped = ops.per_token_linear(first.reshape(-1, heads, first_dim), self.weight)
        return (mapped * second.reshape(-1, heads, second_dim)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class FinalMLPOptions(FieldShape):
    """Keyword arguments of :class:`FinalMLP`; their meaning is there."""

    first_dims: Sequence[int] = (1024, 512)
    second_dims: Sequence[int] = (1024, 512, 256)
    num_heads: int = 2
    gate: bool = True
    gate_dims: Sequence[int] = (1024, 512)
    first_context: Sequence[int] = ()
    second_context: Sequence[int] = ()
    batch_norm: bool = False
    dropout: float = 0.0


class FinalMLP(FieldBackbone):
    r"""Two streams of hidden layers, each on its own gated copy of the flattened tokens, and their bilinear product.

    .. math:: o_s = \mathrm{MLP}_s(x \odot 2 \sigma(\mathrm{MLP}_s^{gate}(c_s))), \qquad
              y = b + w_1^\top o_1 + w_2^\top o_2 + \sum_{h=1}^{H} o_{1h}^\top W_h\, o_{2h}

    FinalMLP (arXiv:2304.00902). The output holds :math:`o_1`, :math:`o_2` and the H bilinear values, so that a linear
    tower with unit weights on the last H is exactly the equation, and several tasks share the streams. Default widths
    are a public template's.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        first_dims: widths of the first stream.
        second_dims: widths of the second stream.
        num_heads: H, divides the last width of both streams.
        gate: False gives both streams the tokens as they are.
        gate_dims: hidden widths of the gates.
        first_context: tokens that the first gate sees; none is one learned vector.
        second_context: tokens that the second gate sees.
        batch_norm: in both streams.
        dropout: in both streams.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, first_dims[-1] + second_dims[-1] + H)``

    Example:
        >>> FinalMLP(num_tokens=4, token_dim=16, first_dims=(8,), second_dims=(6,))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 16])
    """

    Options: ClassVar[Any] = FinalMLPOptions
    family: ClassVar[str] = "mlp"
    global_pattern: ClassVar[str] = "dense layers across all tokens in two streams; their bilinear product"

    def __init__(self, **options: Any) -> None:
        chosen = FinalMLPOptions(**options)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        for name, dims in (("first_dims", chosen.first_dims), ("second_dims", chosen.second_dims)):
            if not dims:
                raise UnimixerError(f"{name} is empty; a stream needs at least one hidden layer, such as [512]")
            check_divisible(f"{name}[-1]", dims[-1], by="num_heads", divisor=chosen.num_heads)
        if not chosen.gate and (chosen.first_context or chosen.second_context):
            raise UnimixerError("a context has no use with gate=False; leave it out, or set gate=True")
        out_dim = chosen.first_dims[-1] + chosen.second_dims[-1] + chosen.num_heads
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, out_dim=out_dim)

        def feature_gate(context: Sequence[int]) -> nn.Module:
            return (
                FeatureGate(chosen.num_tokens, chosen.token_dim, hidden_dims=chosen.gate_dims, context=context)
                if chosen.gate
                else nn.Flatten()
            )

        def stream(dims: Sequence[int]) -> nn.Module:
            return hidden_layers(
                chosen.num_tokens * chosen.token_dim, dims, batch_norm=chosen.batch_norm, dropout=chosen.dropout
            )

        self.first_gate, self.second_gate = feature_gate(chosen.first_context), feature_gate(chosen.second_context)
        self.first, self.second = stream(chosen.first_dims), stream(chosen.second_dims)
        self.heads = BilinearHeads(chosen.first_dims[-1], chosen.second_dims[-1], chosen.num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run both streams and join them."""
        self.check_tokens(tokens)
        first, second = self.first(self.first_gate(tokens)), self.second(self.second_gate(tokens))
        return torch.cat([first, second, self.heads(first, second).to(first.dtype)], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Two streams, H maps of :math:`d_1 / H` by :math:`d_2 / H`, and two gates from their contexts to T D."""
        chosen = FinalMLPOptions(**arguments)
        token_dim, norm = chosen.token_dim, chosen.batch_norm
        length = chosen.num_tokens * token_dim
        first, second = chosen.first_dims, chosen.second_dims
        streams = count_hidden(length, first, batch_norm=norm) + count_hidden(length, second, batch_norm=norm)
        gates = 0
        for context in (chosen.first_context, chosen.second_context) if chosen.gate else ():
            learned = 0 if context else token_dim
            dims = (*chosen.gate_dims, length)
            gates += learned + count_hidden(token_dim * max(1, len(context)), dims, batch_norm=False)
        return streams + int(first[-1]) * int(second[-1]) // chosen.num_heads + gates

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Streams and gates of ``width``, half of it, a quarter of it; last widths are multiples of the heads."""
        first, half, heads = max(1, round(width)), max(1, round(width / 2)), int(options.get("num_heads", 2))
        return {
            "token_dim": 16 if token_dim is None else token_dim,
            "first_dims": (first, nearest_multiple(width / 2, heads)),
            "second_dims": (first, half, nearest_multiple(width / 4, heads)),
            "gate_dims": (first, half),
        }
