"""DeepFM: a factorization machine beside a deep network on the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unimixer.backbones.base import Backbone
from unimixer.backbones.fm import FM
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.errors import UnimixerError, check_positive


class DeepFM(Backbone):
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

    family: ClassVar[str] = "fm"
    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "field"
    readout: ClassVar[Literal["tokens", "vector"]] = "vector"
    global_pattern: ClassVar[str] = "products of all pairs of tokens; dense layers across all tokens"

    def __init__(
        self,
        *,
        num_tokens: int,
        token_dim: int,
        hidden_dims: Sequence[int] = (300, 300, 300),
        batch_norm: bool = False,
        dropout: float = 0.0,
        num_factors: int | None = None,
        first_order: bool = True,
    ) -> None:
        if not hidden_dims:
            raise UnimixerError("hidden_dims is empty; without a deep network take backbone 'fm'")
        check_positive(num_tokens=num_tokens, token_dim=token_dim)
        fm = FM(num_tokens=num_tokens, token_dim=token_dim, num_factors=num_factors, first_order=first_order)
        super().__init__(num_tokens=num_tokens, token_dim=token_dim, out_dim=fm.out_dim + hidden_dims[-1])
        self.fm = fm
        self.deep = hidden_layers(num_tokens * token_dim, hidden_dims, batch_norm=batch_norm, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run both parts."""
        self.check_tokens(tokens)
        shallow = self.fm(tokens)
        return torch.cat([shallow, self.deep(tokens.flatten(1)).to(shallow.dtype)], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        """The factorization machine's parameters and the deep network's."""
        given = {name: option.default for name, option in cls.options().items()} | arguments
        shallow = FM.formula(**{name: given[name] for name in FM.options()})
        length = int(given["num_tokens"]) * int(given["token_dim"])
        return shallow + count_hidden(length, given["hidden_dims"], batch_norm=given["batch_norm"])

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three hidden layers of ``size``; the factorization machine stays as it is."""
        return {"token_dim": 16 if token_dim is None else token_dim, "hidden_dims": (max(1, round(size)),) * 3}
