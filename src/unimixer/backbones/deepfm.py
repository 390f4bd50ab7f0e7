"""DeepFM: a factorization machine beside a deep network on the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.fm import FM
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.errors import UnimixerError, check_positive


@dataclass(frozen=True, kw_only=True)
class DeepFMOptions(FieldShape):
    """Keyword arguments of :class:`DeepFM`; their meaning is there."""

    hidden_dims: Sequence[int] = (300, 300, 300)
    batch_norm: bool = False
    dropout: float = 0.0
    num_factors: int | None = None
    first_order: bool = True


class DeepFM(FieldBackbone):
    r"""A factorization machine and a deep network that share their tokens.

    .. math:: y = y_{FM} + y_{deep}, \qquad y_{deep} = w^\top \mathrm{MLP}([\, x_1 \Vert \dots \Vert x_T \,])

    DeepFM (arXiv:1703.04247), Eq. (1). The output holds the terms of :class:`~unimixer.backbones.fm.FM` and the last
    hidden layer side by side: a linear tower adds both logits. The deep network reads whole tokens, the first-order
    number included; in the paper it reads the factors alone.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        hidden_dims: widths of the deep network. The default is a public template's; on Criteo, 5 layers of 1000 with
            dropout 0.2 did best.
        batch_norm: in the deep network.
        dropout: in the deep network.
        num_factors: of the factorization machine, see there.
        first_order: of the factorization machine, see there.

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, 1 + k + hidden_dims[-1])``, where k is ``D - 1`` or ``num_factors``

    Example:
        >>> DeepFM(num_tokens=4, token_dim=16, hidden_dims=(32, 8))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 24])
    """

    Options: ClassVar[Any] = DeepFMOptions
    family: ClassVar[str] = "fm"
    global_pattern: ClassVar[str] = "products of all pairs of tokens; dense layers across all tokens"

    def __init__(self, **options: Any) -> None:
        chosen = DeepFMOptions(**options)
        if not chosen.hidden_dims:
            raise UnimixerError("hidden_dims is empty; without a deep network take backbone 'fm'")
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        fm = FM(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            num_factors=chosen.num_factors,
            first_order=chosen.first_order,
        )
        super().__init__(
            num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, out_dim=fm.out_dim + chosen.hidden_dims[-1]
        )
        self.fm = fm
        self.deep = hidden_layers(
            chosen.num_tokens * chosen.token_dim,
            chosen.hidden_dims,
            batch_norm=chosen.batch_norm,
            dropout=chosen.dropout,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Run both parts."""
        self.check_tokens(tokens)
        shallow = self.fm(tokens)
        return torch.cat([shallow, self.deep(tokens.flatten(1)).to(shallow.dtype)], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        """Return the factorization machine's parameters and the deep network's."""
        chosen = DeepFMOptions(**arguments)
        shallow = FM.formula(**{name: getattr(chosen, name) for name in FM.options()})
        length = chosen.num_tokens * chosen.token_dim
        return shallow + count_hidden(length, chosen.hidden_dims, batch_norm=chosen.batch_norm)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three hidden layers of ``width``; the factorization machine stays as it is."""
        return {"token_dim": 16 if token_dim is None else token_dim, "hidden_dims": (max(1, round(width)),) * 3}
