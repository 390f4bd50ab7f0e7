"""The unified form as operations: weigh values between blocks, and the generalised Kronecker product behind it."""

from __future__ import annotations

import torch
from torch import Tensor, einsum


def apply_weights(weights: Tensor, values_BNc: Tensor) -> Tensor:
    r"""Out block m is :math:`\sum_n G_{mn} h_n`; head h weighs the h-th of H equal slices of the values.

    arXiv:2604.00590, "unified form": :math:`G(X)\, [x_1 W_B^1; \dots; x_N W_B^N]`.

    Shape:
        - weights: ``(H, M, N)`` or ``(B, H, M, N)``; values_BNc: ``(B, N, c)``
        - output: ``(B, M, c)``

    Example:
        >>> apply_weights(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0], [2.0]]]))
        tensor([[[2.]]])
    """
    heads = weights.shape[-3]
    if heads == 1:
        return weights.squeeze(-3) @ values_BNc
    values_BNHc = values_BNc.reshape(*values_BNc.shape[:2], heads, -1)
    if weights.dim() == 3:  # the same for every row: one product a head over the whole batch
        return einsum("hmn,bnhc->bmhc", weights, values_BNHc).flatten(2)
    return (weights @ values_BNHc.transpose(1, 2)).transpose(1, 2).flatten(2)


def block_diagonal(matrices_Nbc: Tensor) -> Tensor:
    """The map of a whole embedding that multiplies block n by matrix n from the right, ``(N, c, N * b)``.

    Example:
        >>> block_diagonal(torch.tensor([[[2.0]], [[3.0]]]))
        tensor([[[2., 0.]],
        <BLANKLINE>
                [[0., 3.]]])
    """
    num_blocks = matrices_Nbc.shape[0]
    eye = torch.eye(num_blocks, dtype=matrices_Nbc.dtype, device=matrices_Nbc.device)
    return einsum("nm,nbc->ncmb", eye, matrices_Nbc).flatten(2)


def unified_matrix(weights: Tensor, local_NcL: Tensor) -> Tensor:
    r"""The matrix of the unified form: block (m, n) is :math:`G_{mn} (W_B^n)^T`, head by head.

    Shape:
        - weights: ``(H, M, N)`` or ``(B, H, M, N)``; local_NcL: the local pattern as a map, ``(N, c, L)``
        - output: ``(M * c, L)`` or ``(B, M * c, L)``, to multiply columns

    Example:
        >>> unified_matrix(torch.tensor([[[0.0, 1.0]]]), block_diagonal(torch.tensor([[[2.0]], [[3.0]]])))
        tensor([[0., 3.]])
    """
    heads, width = weights.shape[-3], local_NcL.shape[1]
    per_column = weights.repeat_interleave(width // heads, dim=-3)
    return einsum("...cmn,ncl->...mcl", per_column, local_NcL).flatten(-3, -2)
