"""Patterns of constant matrices: what learned ones become once trained."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.local_patterns import Local


class FixedLocal(Local):
    """Constant matrices inside blocks, ``(N, b, c)`` or ``(1, b, c)``.

    .. math:: y_n = x_n W^n

    Source: a local pattern after training, with its constraint evaluated once.

    Args:
        num_blocks: N.
        weight: the matrices.
        pattern: the pattern in words.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> FixedLocal(2, 3 * torch.eye(1).unsqueeze(0))(torch.tensor([[[1.0], [2.0]]])).flatten().tolist()
        [3.0, 6.0]
    """

    weight: Tensor

    def __init__(self, num_blocks: int, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.num_blocks, (_, self.in_dim, self.out_dim), self.pattern = num_blocks, weight.shape, pattern
        self.register_buffer("weight", weight.detach().clone())

    def matrices(self) -> Tensor:
        """The constant."""
        return self.weight


class FixedGlobal(Global):
    r"""A constant matrix between blocks, ``(M, N)``, or one a head, ``(H, M, N)``.

    .. math:: y_m = \sum_n G_{mn} h_n

    Source: a global pattern after training, with its constraint evaluated once.

    Args:
        weight: the matrix G.
        pattern: the pattern in words.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, M, c)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> FixedGlobal(torch.tensor([[1.0, 1.0]]))(values, values).tolist()
        [[[3.0]]]
    """

    weight: Tensor

    def __init__(self, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.pattern = pattern
        self.num_heads = 1 if weight.dim() == 2 else len(weight)
        self.register_buffer("weight", weight.detach().clone())

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The constant."""
        return self.weight.view(self.num_heads, *self.weight.shape[-2:])


class SparseGlobal(Global):
    r"""Every block is a weighted sum of k others: the k largest entries of each row, scaled to the row's sum.

    .. math:: y_m = \frac{\sum_j G_{mj}}{\sum_{j \in K_m} G_{mj}} \sum_{n \in K_m} G_{mn} h_n, \qquad
              K_m = \mathrm{top}_k(G_m)

    Source: ours, for serving; see :func:`~unimixer.mixing.discretize`.

    Args:
        matrix: ``(N, N)``.
        top_k: k, at most N.

    Shape:
        - blocks, values: ``(B, N, b)``; output: ``(B, N, b)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> SparseGlobal(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), top_k=1)(values, values).flatten().tolist()
        [2.0, 1.0]
    """

    indices: Tensor
    values: Tensor

    def __init__(self, matrix: Tensor, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= matrix.shape[-1]:
            raise UnimixerError(f"top_k={top_k} must lie between 1 and the number of blocks, {matrix.shape[-1]}")
        kept, indices = matrix.detach().topk(top_k, dim=-1)
        self.pattern = f"constant, {top_k} entries a row"
        self.register_buffer("indices", indices)
        self.register_buffer("values", kept * (matrix.detach().sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)))

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The sparse matrix, written out."""
        size = self.indices.shape[0]
        return self.values.new_zeros(size, size).scatter_(1, self.indices, self.values).unsqueeze(0)

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Gather and sum, k products instead of N."""
        gathered = values[:, self.indices]  # (B, N, k, b)
        return (self.values.to(values.dtype).unsqueeze(-1) * gathered).sum(-2)


def nearest_permutation(matrix: Tensor) -> Tensor:
    """Find the permutation matrix with the largest inner product with a square matrix: row i takes column result[i].

    Example:
        >>> nearest_permutation(torch.tensor([[0.6, 0.4], [0.7, 0.3]]))
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(matrix.detach().double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(matrix.device)
