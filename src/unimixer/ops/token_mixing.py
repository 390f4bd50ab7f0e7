"""The parameter-free rule of TokenMixer, as an operation and as the permutation that it is."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import check_divisible
from unimixer.ops.layout import is_batch_last, plain


def token_mixing(x_BTD: Tensor, num_heads: int) -> Tensor:
    r"""Output token h gathers head h of every input token.

    .. math:: s_h = [\, x_1^{(h)} \,\Vert\, \dots \,\Vert\, x_T^{(h)} \,], \qquad h = 1, \dots, H

    RankMixer (arXiv:2507.15551), "multi-head token mixing". Where ``H = T`` it is its own inverse.

    Shape:
        - x_BTD: ``(B, T, D)``, with D divisible by H
        - output: ``(B, H, T * D / H)``

    Example:
        >>> token_mixing(torch.arange(4).view(1, 2, 2), num_heads=2)
        tensor([[[0, 2],
                 [1, 3]]])
    """
    if not plain(x_BTD) and is_batch_last(x_BTD):  # heads are whole rows
        heads_THdB = x_BTD.permute(1, 2, 0).view(x_BTD.shape[1], num_heads, -1, x_BTD.shape[0])
        return heads_THdB.transpose(0, 1).flatten(1, 2).permute(2, 0, 1)
    heads_BTHd = x_BTD.reshape(*x_BTD.shape[:-1], num_heads, x_BTD.shape[-1] // num_heads)
    return heads_BTHd.transpose(1, 2).flatten(2)


def token_mixing_permutation(num_tokens: int, token_dim: int, num_heads: int) -> Tensor:
    """The rule on flattened tokens as indices: ``token_mixing(x, H).flatten(1) == x.flatten(1)[:, permutation]``.

    Shape:
        - output: ``(L,)`` int64, ``L = num_tokens * token_dim``

    Example:
        >>> token_mixing_permutation(num_tokens=2, token_dim=2, num_heads=2)
        tensor([0, 2, 1, 3])
    """
    check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
    indices_BTD = torch.arange(num_tokens * token_dim).view(1, num_tokens, token_dim)
    return token_mixing(indices_BTD, num_heads).flatten()


def permutation_matrix(permutation: Tensor) -> Tensor:
    """The matrix M of a permutation, or of each of several, with ``x[:, permutation] == x @ M.T``.

    Shape:
        - permutation: ``(..., N)``; output: ``(..., N, N)``

    Example:
        >>> permutation_matrix(torch.tensor([1, 0]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    matrix = torch.zeros(*permutation.shape, permutation.shape[-1], device=permutation.device)
    return matrix.scatter_(-1, permutation.unsqueeze(-1), 1.0)
