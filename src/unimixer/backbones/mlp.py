"""The plain deep network on flattened tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.errors import UnimixerError, check_positive


def hidden_layers(in_dim: int, hidden_dims: Sequence[int], *, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU, each with optional batch norm before and dropout after the ReLU."""
    if not 0 <= dropout < 1:
        raise UnimixerError(f"dropout={dropout} must be at least 0 and less than 1")
    layers: list[nn.Module] = []
    for out_dim in hidden_dims:
        check_positive(hidden_dims=out_dim)
        layers += [nn.Linear(in_dim, out_dim)]
        layers += [nn.BatchNorm1d(out_dim)] if batch_norm else []
        layers += [nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        in_dim = out_dim
    return nn.Sequential(*layers)


def count_hidden(in_dim: int, hidden_dims: Sequence[int], *, batch_norm: bool) -> int:
    r"""Return the parameters of :func:`hidden_layers`: the sum of :math:`(n + 1) m`, and :math:`2 m` with batch norm.

    Example:
        >>> count_hidden(4, (3, 2), batch_norm=True)  # 5 * 3 + 6 + 4 * 2 + 4
        33
    """
    return sum((n + 1) * m + 2 * m * int(batch_norm) for n, m in pairwise((in_dim, *hidden_dims)))


@dataclass(frozen=True, kw_only=True)
class MLPOptions(FieldShape):
    """Keyword arguments of :class:`MLP`; their meaning is there."""

    hidden_dims: Sequence[int] = (512, 512, 512)
    batch_norm: bool = False
    dropout: float = 0.0


class MLP(FieldBackbone):
    r"""Flatten the tokens, then hidden layers with ReLU.

    .. math:: h_0 = \mathrm{vec}(X), \qquad h_{l+1} = \mathrm{ReLU}(W_l h_l + b_l)

    Source: the deep part of Wide & Deep (arXiv:1606.07792).

    Args:
        num_tokens: T.
        token_dim: D.
        hidden_dims: widths of the hidden layers.
        batch_norm: normalise over the batch before every ReLU.
        dropout: share of activations dropped after every ReLU.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, hidden_dims[-1])``

    Example:
        >>> import torch
        >>> MLP(num_tokens=4, token_dim=16, hidden_dims=(32, 8))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 8])
    """

    Options: ClassVar[Any] = MLPOptions
    family: ClassVar[str] = "mlp"
    global_pattern: ClassVar[str] = "dense layers across all tokens"

    def __init__(self, **options: Any) -> None:
        chosen = MLPOptions(**options)
        if not chosen.hidden_dims:
            raise UnimixerError("hidden_dims is empty; an MLP needs at least one hidden layer, such as [512]")
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, out_dim=chosen.hidden_dims[-1])
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        self.layers = hidden_layers(
            chosen.num_tokens * chosen.token_dim,
            chosen.hidden_dims,
            batch_norm=chosen.batch_norm,
            dropout=chosen.dropout,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Flatten and run the layers."""
        self.check_tokens(tokens)
        output: Tensor = self.layers(tokens.flatten(1))
        return output

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        """Return the hidden layers' parameters."""
        chosen = MLPOptions(**arguments)
        length = chosen.num_tokens * chosen.token_dim
        return count_hidden(length, chosen.hidden_dims, batch_norm=chosen.batch_norm)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three hidden layers of ``width``; tokens are as wide as the embedding, 16 where that is not given."""
        return {"token_dim": 16 if token_dim is None else token_dim, "hidden_dims": (max(1, round(width)),) * 3}
