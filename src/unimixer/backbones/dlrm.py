"""DLRM: dot products of all pairs of fields, then a deep network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import PairProducts
from unimixer.errors import check_positive


@dataclass(frozen=True, kw_only=True)
class DLRMOptions(FieldShape):
    """Keyword arguments of :class:`DLRM`; their meaning is there."""

    bottom_dims: Sequence[int] = (64, 64, 64)
    top_dims: Sequence[int] = (64, 64, 64)
    bottom: bool = True
    self_interaction: bool = False
    batch_norm: bool = False
    dropout: float = 0.0


class DLRM(FieldBackbone):
    r"""Dot products of distinct pairs among the tokens and one dense vector z, beside z, into a top network.

    .. math:: v = (z, x_1, \dots, x_T), \quad z = \mathrm{MLP}_{bottom}(\cdot), \qquad
              r = \mathrm{MLP}_{top}\big( [\, z \Vert \{\, v_i^\top v_j : i > j \,\} \,] \big)

    DLRM (arXiv:1906.00091). There z comes from the numeric features; a backbone sees tokens and does not know which of
    them were numeric, so here z is the bottom network of all tokens, flattened (our choice). Both networks end in ReLU,
    as in public code; the final linear layer of the paper is the task tower here.

    Args:
        num_tokens: T, one token a field.
        token_dim: D, also the width of z.
        bottom_dims: hidden widths of the bottom network, before its last layer of width D.
        top_dims: widths of the top network; empty gives its input.
        bottom: False has no z: the flattened tokens stand beside the dot products instead.
        self_interaction: also multiply every vector with itself.
        batch_norm: in both networks.
        dropout: in the top network.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, top_dims[-1])``

    Example:
        >>> DLRM(num_tokens=4, token_dim=16, bottom_dims=(32,), top_dims=(32, 8))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 8])
    """

    Options: ClassVar[Any] = DLRMOptions
    family: ClassVar[str] = "fm"
    global_pattern: ClassVar[str] = "dot products of all pairs of tokens; dense layers across all tokens"

    def __init__(self, **options: Any) -> None:
        chosen = DLRMOptions(**options)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        length = chosen.num_tokens * chosen.token_dim
        products = PairProducts(chosen.num_tokens + int(chosen.bottom), self_interaction=chosen.self_interaction)
        width = products.out_dim + (chosen.token_dim if chosen.bottom else length)
        super().__init__(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            out_dim=chosen.top_dims[-1] if chosen.top_dims else width,
        )
        dims = (*chosen.bottom_dims, chosen.token_dim)
        self.bottom = hidden_layers(length, dims, batch_norm=chosen.batch_norm, dropout=0.0) if chosen.bottom else None
        self.top = hidden_layers(width, chosen.top_dims, batch_norm=chosen.batch_norm, dropout=chosen.dropout)
        self.products = products

    def forward(self, tokens: Tensor) -> Tensor:
        """Multiply the pairs and run the networks."""
        self.check_tokens(tokens)
        flat = tokens.flatten(1)
        beside, vectors = flat, tokens
        if self.bottom is not None:
            beside = self.bottom(flat)
            vectors = torch.cat([beside.unsqueeze(1).to(tokens.dtype), tokens], dim=1)
        dots = self.products(vectors)
        output: Tensor = self.top(torch.cat([beside, dots.to(beside.dtype)], dim=-1))
        return output

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Bottom from T D to D, top from :math:`D + (T + 1) T / 2` (no z: :math:`T D + T (T - 1) / 2`)."""
        chosen = DLRMOptions(**arguments)
        num_tokens, token_dim, norm = chosen.num_tokens, chosen.token_dim, chosen.batch_norm
        length, vectors, beside, bottom = num_tokens * token_dim, num_tokens, num_tokens * token_dim, 0
        if chosen.bottom:
            vectors, beside = num_tokens + 1, token_dim
            bottom = count_hidden(length, (*chosen.bottom_dims, token_dim), batch_norm=norm)
        dots = vectors * (vectors - 1) // 2 + vectors * chosen.self_interaction
        return bottom + count_hidden(beside + dots, chosen.top_dims, batch_norm=norm)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three layers of ``width`` in both networks."""
        dims = (max(1, round(width)),) * 3
        return {"token_dim": 16 if token_dim is None else token_dim, "bottom_dims": dims, "top_dims": dims}
