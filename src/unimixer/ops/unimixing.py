"""UniMixing: local mixing inside every block of the flattened tokens, then global mixing between the blocks."""

from __future__ import annotations

import torch
from torch import Tensor, einsum


def unimixing(x_BL: Tensor, global_NN: Tensor, local_Nbb: Tensor) -> Tensor:
    r"""Mix the N blocks of width b of a flattened embedding, without ever building the L x L matrix.

    .. math:: H = [x_1 W_B^1; \dots; x_N W_B^N], \qquad out = W_G H

    arXiv:2604.00590, "UniMixing". One local matrix for all blocks is given as ``(1, b, b)``.

    Shape:
        - x_BL: ``(B, L)``, ``L = N * b``
        - global_NN: ``(N, N)``; local_Nbb: ``(N, b, b)`` or ``(1, b, b)``
        - output: ``(B, L)``

    Example:
        >>> unimixing(torch.arange(4.0).view(1, 4), torch.eye(2).flip(0), torch.eye(2).expand(2, 2, 2))
        tensor([[2., 3., 0., 1.]])
    """
    num_blocks, block_size = global_NN.shape[0], local_Nbb.shape[-1]
    # Samples last: a block is then b whole rows, and neither product needs a copy of batch-last tokens.
    blocks_NbB = x_BL.T.contiguous().view(num_blocks, block_size, -1)
    local_Nbb = local_Nbb.expand(num_blocks, block_size, block_size)
    mixed = global_NN @ torch.bmm(local_Nbb.mT, blocks_NbB).flatten(1)
    return mixed.view(-1, blocks_NbB.shape[-1]).T


def head_unimixing(x_BL: Tensor, heads_HTT: Tensor) -> Tensor:
    r"""Mix head h of all tokens by the h-th matrix, :math:`out^h = W_h\, x^h`.

    Shape:
        - x_BL: ``(B, L)``, ``L = T * H * c``; heads_HTT: ``(H, T, T)``
        - output: ``(B, L)``

    Example:
        >>> head_unimixing(torch.arange(4.0).view(1, 4), torch.stack([torch.eye(2), torch.eye(2).flip(0)]))
        tensor([[0., 3., 2., 1.]])
    """
    num_heads, num_tokens, _ = heads_HTT.shape
    # Samples last: a head of a token is then whole rows, and every head is one product over the batch.
    rows_THn = x_BL.T.contiguous().view(num_tokens, num_heads, -1)
    mixed = torch.bmm(heads_HTT, rows_THn.transpose(0, 1)).transpose(0, 1)
    return mixed.reshape(x_BL.shape[1], -1).T


def unimixing_matrix(global_NN: Tensor, local_Nbb: Tensor) -> Tensor:
    r"""The generalised Kronecker product :math:`W_G \otimes \{W_B^i\}`, the definition behind :func:`unimixing`.

    Returned as M with ``unimixing(x) == x @ M.T``. The paper multiplies rows, :math:`x_n W_B^n`, hence block (m, n) of
    M, which multiplies a column, is :math:`W_G[m, n] (W_B^n)^T` (for symmetric local matrices there is no difference).

    Shape:
        - output: ``(L, L)``

    Example:
        >>> unimixing_matrix(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.ones(2, 1, 1))
        tensor([[0., 2.],
                [1., 0.]])
    """
    num_blocks, block_size = global_NN.shape[0], local_Nbb.shape[-1]
    local_Nbb = local_Nbb.expand(num_blocks, block_size, block_size)
    return einsum("mn,nij->mjni", global_NN, local_Nbb).flatten(2).flatten(0, 1)
