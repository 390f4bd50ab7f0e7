"""AutoInt: self-attention between fields, without a feed-forward part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape, nearest_multiple
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import Recomputing
from unimixer.errors import check_choice, check_divisible, check_positive
from unimixer.mixing import SharedLinear, SoftmaxAttention, Unified


class InteractingLayer(nn.Module):
    r"""Attention of all heads beside a linear residual, then ReLU; neither a norm nor an FFN.

    .. math:: Z = \mathrm{ReLU}\big( [\, A^1 X W_V^1 \Vert \dots \Vert A^H X W_V^H \,] + X W_{res} \big), \qquad
              A^h = \mathrm{softmax}\big( X W_Q^h (X W_K^h)^T \big)

    AutoInt (arXiv:1810.11921), "interacting layer".

    Args:
        num_tokens: T.
        in_dim: width of the tokens.
        out_dim: width of all heads together.
        num_heads: H.
        scaled: divide logits by the root of a head's width.
        residual: ``"projected"``, ``"identity"`` (projected only where widths differ) or ``"none"``.

    Shape:
        - tokens: ``(B, T, in_dim)``; output: ``(B, T, out_dim)``

    Example:
        >>> InteractingLayer(4, 6, 8, num_heads=2)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(
        self,
        num_tokens: int,
        in_dim: int,
        out_dim: int,
        *,
        num_heads: int = 1,
        scaled: bool = False,
        residual: str = "projected",
    ) -> None:
        super().__init__()
        check_choice("residual", residual, ("projected", "identity", "none"))
        query, key, value = (SharedLinear(num_tokens, in_dim, out_dim) for _ in range(3))
        self.attention = Unified(value, SoftmaxAttention(query, key, num_heads=num_heads, scaled=scaled))
        self.residual: nn.Module | None = None
        if residual != "none":
            projected = residual == "projected" or in_dim != out_dim
            self.residual = nn.Linear(in_dim, out_dim, bias=False) if projected else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend, add, rectify."""
        mixed: Tensor = self.attention(tokens)
        return F.relu(mixed if self.residual is None else mixed + self.residual(tokens))


@dataclass(frozen=True, kw_only=True)
class AutoIntOptions(FieldShape):
    """Keyword arguments of :class:`AutoInt`; their meaning is there."""

    num_layers: int = 3
    attention_dim: int = 64
    num_heads: int = 2
    scaled: bool = False
    residual: str = "projected"
    mlp_hidden_dims: Sequence[int] = ()
    dropout: float = 0.0


class AutoInt(Recomputing, FieldBackbone):
    r"""Interacting layers on one token a field, flattened; AutoInt+ adds a deep network beside them.

    .. math:: Z_{l+1} = \mathrm{ReLU}\big( \Vert_h\, \mathrm{softmax}(q^h k^{hT})\, v^h + Z_l W_{res} \big), \qquad
              r = [\, \mathrm{vec}(Z_L) \Vert \mathrm{MLP}(\mathrm{vec}(X)) \,]

    AutoInt (arXiv:1810.11921). Its equation has no :math:`1/\sqrt{a}`; public code differs, hence ``scaled``. It reads
    as projecting every residual and explains the projection by a change of width, hence ``residual``. The final linear
    layers are the task tower here: on the concatenation, a linear tower is the sum of both logits of AutoInt+.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        num_layers: interacting layers.
        attention_dim: width of all heads of a layer together, divisible by ``num_heads``.
        num_heads: H.
        scaled: divide logits by the root of a head's width.
        residual: ``"projected"``, ``"identity"`` (projected only where widths differ) or ``"none"``.
        mlp_hidden_dims: widths of the deep network of AutoInt+, with ReLU; empty for AutoInt.
        dropout: in the deep network.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T * attention_dim + mlp_hidden_dims[-1])``

    Example:
        >>> AutoInt(num_tokens=4, token_dim=16, attention_dim=8, mlp_hidden_dims=(24, 12))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 44])
    """

    Options: ClassVar[Any] = AutoIntOptions
    family: ClassVar[str] = "attention"

    def __init__(self, **options: Any) -> None:
        chosen = AutoIntOptions(**options)
        deep_dim = chosen.mlp_hidden_dims[-1] if chosen.mlp_hidden_dims else 0
        super().__init__(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            out_dim=chosen.num_tokens * chosen.attention_dim + deep_dim,
        )
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, num_layers=chosen.num_layers)
        check_divisible("attention_dim", chosen.attention_dim, by="num_heads", divisor=chosen.num_heads)
        widths = [chosen.token_dim, *(chosen.attention_dim for _ in range(chosen.num_layers))]
        self.layers = nn.Sequential(
            *(
                InteractingLayer(
                    chosen.num_tokens,
                    width,
                    chosen.attention_dim,
                    num_heads=chosen.num_heads,
                    scaled=chosen.scaled,
                    residual=chosen.residual,
                )
                for width in widths[:-1]
            )
        )
        self.deep = (
            hidden_layers(
                chosen.num_tokens * chosen.token_dim, chosen.mlp_hidden_dims, batch_norm=False, dropout=chosen.dropout
            )
            if chosen.mlp_hidden_dims
            else None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend layer after layer; beside it, the deep network."""
        self.check_tokens(tokens)
        hidden = tokens
        for layer in self.layers:
            hidden = self.run(layer, hidden)
        interactions = hidden.flatten(1)
        if self.deep is None:
            return interactions
        deep = self.deep(tokens.flatten(1))
        return torch.cat([interactions, deep.to(interactions.dtype)], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Four matrices a layer, :math:`4 D A` then :math:`4 A^2`, three where the residual is not projected."""
        chosen = AutoIntOptions(**arguments)
        width, attention_dim = chosen.token_dim, chosen.attention_dim

        def layer(in_dim: int) -> int:
            projected = {"projected": True, "identity": in_dim != attention_dim, "none": False}[chosen.residual]
            return (3 + int(projected)) * in_dim * attention_dim

        stack = layer(width) + (chosen.num_layers - 1) * layer(attention_dim)
        return stack + count_hidden(chosen.num_tokens * width, chosen.mlp_hidden_dims, batch_norm=False)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the multiple of ``num_heads`` nearest to ``width``; tokens of width 16 unless they are given."""
        num_heads = max(1, int(options.get("num_heads", cls.options()["num_heads"].default)))
        return {
            "token_dim": 16 if token_dim is None else token_dim,
            "attention_dim": nearest_multiple(width, num_heads),
        }
