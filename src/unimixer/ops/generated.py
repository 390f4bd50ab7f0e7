"""Doubly stochastic matrices that few numbers generate: sums of permutations, and products of 2 x 2 matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def permutation_sum(weights_K: Tensor, permutations_KN: Tensor) -> Tensor:
    r"""The weighted sum of permutation matrices, :math:`\sum_k w_k P_k`.

    Shape:
        - weights_K: ``(K,)``; permutations_KN: ``(K, N)``, row i of matrix k has its one in column ``[k, i]``
        - output: ``(N, N)``

    Example:
        >>> permutation_sum(torch.tensor([0.75, 0.25]), torch.tensor([[0, 1], [1, 0]]))
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    size = permutations_KN.shape[1]
    return weights_K.new_zeros(size, size).scatter_add(1, permutations_KN.T, weights_K.expand(size, -1))


def kronecker_multiply(share_M: Tensor, matrix_NC: Tensor) -> Tensor:
    r"""Multiply by the Kronecker product of M matrices :math:`\begin{pmatrix} a & 1-a \\ 1-a & a \end{pmatrix}`.

    Matrix m mixes the rows whose numbers differ in bit m alone, the most significant bit first: M passes over the rows
    instead of a product with an N x N matrix.

    Shape:
        - share_M: a, ``(M,)``; matrix_NC: ``(N, C)``, ``N = 2**M``
        - output: ``(N, C)``

    Example:
        >>> kronecker_multiply(torch.tensor([0.75]), torch.eye(2))
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    for bit, share in enumerate(share_M):
        pairs = matrix_NC.view(2**bit, 2, -1)
        matrix_NC = torch.lerp(pairs.flip(1), pairs, share).view(matrix_NC.shape)
    return matrix_NC
