"""Map numbers to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NumericEmbedding(nn.Module):
    r"""A direction for every numeric field, and a learned vector where the value is missing.

    .. math:: e_f = x_f w_f + b_f \quad\text{or}\quad e_f = m_f \text{ where } x_f \text{ is NaN}

    Source: AutoInt (arXiv:1810.11921), "embedding layer"; the bias and the vector of a missing value are ours.

    Args:
        num_fields: F.
        embedding_dim: width of :math:`e_f`.

    Shape:
        - x: ``(B, F)``
        - output: ``(B, F, embedding_dim)``

    Example:
        >>> embedding = NumericEmbedding(1, 4)
        >>> torch.equal(embedding(torch.tensor([[float("nan")]]))[0, 0], embedding.missing[0])
        True
    """

    def __init__(self, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_fields, embedding_dim))
        self.bias = nn.Parameter(torch.zeros(num_fields, embedding_dim))
        self.missing = nn.Parameter(torch.zeros(num_fields, embedding_dim))
        nn.init.normal_(self.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan().unsqueeze(-1)
        values = x.nan_to_num().unsqueeze(-1) * self.weight + self.bias
        return torch.where(missing, self.missing, values)


class VectorProjection(nn.Module):
    r"""A pretrained vector through a linear layer, and a learned vector where it is missing.

    .. math:: e = W x + b \quad\text{or}\quad e = m \text{ where } x \text{ is missing}

    Source: ours.

    Args:
        width: of the vector x.
        embedding_dim: width of e.

    Shape:
        - x: ``(B, width)``, NaN in the first column marks a missing vector
        - output: ``(B, embedding_dim)``

    Example:
        >>> VectorProjection(3, 4)(torch.zeros(2, 3)).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, embedding_dim)
        self.missing = nn.Parameter(torch.zeros(embedding_dim))

    def forward(self, x: Tensor) -> Tensor:
        missing = x[:, :1].isnan()
        projected: Tensor = self.linear(x.nan_to_num())
        return torch.where(missing, self.missing, projected)
