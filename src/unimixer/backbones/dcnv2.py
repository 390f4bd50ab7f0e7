"""DCNv2: explicit feature crosses beside, or below, a deep network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import CrossLayer, Recomputing
from unimixer.errors import check_choice, check_positive


@dataclass(frozen=True, kw_only=True)
class DCNv2Options(FieldShape):
    """Keyword arguments of :class:`DCNv2`; their meaning is there."""

    num_crosses: int = 3
    cross_rank: int | None = None
    hidden_dims: Sequence[int] = (512, 512, 512)
    structure: str = "parallel"
    batch_norm: bool = False
    dropout: float = 0.0


class DCNv2(Recomputing, FieldBackbone):
    r"""Cross layers and a deep network on the flattened tokens.

    DCN V2 (arXiv:2008.13535). ``"parallel"`` concatenates both outputs, the usual choice; ``"stacked"`` feeds the
    crosses into the network. The final linear layer of the paper is the task tower here.

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l, \qquad h_{l+1} = \mathrm{ReLU}(V_l h_l + c_l)

    with :math:`x_0` the flattened tokens, and :math:`h_0 = x_0` in parallel, the last cross stacked.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        num_crosses: cross layers.
        cross_rank: rank of their weights, None for full rank.
        hidden_dims: widths of the deep network.
        structure: ``"parallel"`` or ``"stacked"``.
        batch_norm: in the deep network.
        dropout: in the deep network.

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, T * D + hidden_dims[-1])`` in parallel, ``(B, hidden_dims[-1])`` stacked

    Example:
        >>> DCNv2(num_tokens=4, token_dim=16, hidden_dims=(32, 8))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 72])
    """

    Options: ClassVar[Any] = DCNv2Options
    family: ClassVar[str] = "cross"
    global_pattern: ClassVar[str] = "crosses of all tokens with the input; dense layers across all tokens"

    def __init__(self, **options: Any) -> None:
        chosen = DCNv2Options(**options)
        check_choice("structure", chosen.structure, ("parallel", "stacked"))
        length = chosen.num_tokens * chosen.token_dim
        deep_dim = chosen.hidden_dims[-1] if chosen.hidden_dims else (length if chosen.structure == "stacked" else 0)
        out_dim = deep_dim if chosen.structure == "stacked" else length + deep_dim
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, out_dim=out_dim)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, num_crosses=chosen.num_crosses)
        self.structure = chosen.structure
        self.crosses = nn.ModuleList(CrossLayer(length, chosen.cross_rank) for _ in range(chosen.num_crosses))
        self.deep = (
            hidden_layers(length, chosen.hidden_dims, batch_norm=chosen.batch_norm, dropout=chosen.dropout)
            if chosen.hidden_dims
            else None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Cross and transform."""
        self.check_tokens(tokens)
        x_0 = crossed = tokens.flatten(1)
        for cross in self.crosses:
            crossed = self.run(cross, x_0, crossed)
        if self.deep is None:
            return crossed
        if self.structure == "stacked":
            stacked: Tensor = self.deep(crossed)
            return stacked
        deep = self.deep(x_0)
        return torch.cat([crossed, deep.to(crossed.dtype)], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Crosses of :math:`L^2 + L`, in low rank :math:`2 L r + L`, and the deep network's, with :math:`L = T D`."""
        chosen = DCNv2Options(**arguments)
        length, rank = chosen.num_tokens * chosen.token_dim, chosen.cross_rank
        cross = length**2 + length if rank is None else 2 * length * int(rank) + length
        return chosen.num_crosses * cross + count_hidden(length, chosen.hidden_dims, batch_norm=chosen.batch_norm)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three hidden layers of ``width``; crosses of rank ``width / 2``, of full rank where that is no larger."""
        token_dim = 16 if token_dim is None else token_dim
        rank = max(1, round(width / 2))
        cross_rank = rank if rank < num_tokens * token_dim / 2 else None
        return {"token_dim": token_dim, "hidden_dims": (max(1, round(width)),) * 3, "cross_rank": cross_rank}
