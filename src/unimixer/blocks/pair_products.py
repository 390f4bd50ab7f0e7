"""Dot products of tokens as features of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import check_positive


def pairs_of(count: int, *, self_interaction: bool = False) -> list[tuple[int, int]]:
    """Return all pairs i > j of ``count`` vectors, row after row; also i = j where they interact with themselves.

    Example:
        >>> pairs_of(3)
        [(1, 0), (2, 0), (2, 1)]
    """
    return [(i, j) for i in range(count) for j in range(i + int(self_interaction))]


class PairProducts(nn.Module):
    r"""Dot products of all distinct pairs of tokens, :math:`\{ x_i^\top x_j : i > j \}`.

    DLRM (arXiv:1906.00091), "feature interaction".

    Args:
        num_tokens: T.
        self_interaction: also multiply every token with itself.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T (T - 1) / 2)``, or ``(B, T (T + 1) / 2)`` with self-interaction

    Example:
        >>> PairProducts(3)(torch.tensor([[[1.0], [2.0], [3.0]]]))
        tensor([[2., 3., 6.]])
    """

    columns: Tensor

    def __init__(self, num_tokens: int, *, self_interaction: bool = False) -> None:
        super().__init__()
        check_positive(num_tokens=num_tokens)
        pairs = pairs_of(num_tokens, self_interaction=self_interaction)
        self.out_dim = len(pairs)
        # where the pairs lie in the flattened matrix of all dot products
        columns = torch.tensor([i * num_tokens + j for i, j in pairs], dtype=torch.long)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Multiply the pairs."""
        return torch.bmm(tokens, tokens.mT).flatten(1)[:, self.columns]
