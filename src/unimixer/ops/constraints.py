"""Constraints on raw matrices that need no iteration: a bounded range, rows of unit norm, orthogonal matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cap_range(raw_NN: Tensor, bound: float | Tensor) -> Tensor:
    r"""Scale a matrix down until its largest and its smallest entry differ by at most ``bound``.

    .. math:: W \min\Big(1, \frac{r}{\max W - \min W}\Big)

    Shape:
        - raw_NN: ``(..., N, N)``; every matrix has its own factor
        - output: ``(..., N, N)``

    Example:
        >>> cap_range(torch.tensor([[0.0, 8.0], [4.0, 0.0]]), 2.0)
        tensor([[0., 2.],
                [1., 0.]])
    """
    spread = raw_NN.amax((-2, -1), keepdim=True) - raw_NN.amin((-2, -1), keepdim=True)
    bound = torch.as_tensor(bound, dtype=raw_NN.dtype, device=raw_NN.device)
    return raw_NN * (bound / torch.maximum(spread, bound))


def unit_rows(raw_NN: Tensor) -> Tensor:
    r"""Divide every row by its L2 norm, :math:`W_{ij} / \lVert W_i \rVert_2`.

    Shape:
        - raw_NN: ``(..., N, N)``; output: ``(..., N, N)``

    Example:
        >>> unit_rows(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
        tensor([[ 0.6000, -0.8000],
                [ 0.0000,  1.0000]])
    """
    return F.normalize(raw_NN, dim=-1)


def cayley(raw_NN: Tensor) -> Tensor:
    r"""The orthogonal matrix of the Cayley transform; zeros give the unit matrix.

    .. math:: (I + A)^{-1} (I - A), \qquad A = (W - W^T) / 2

    Shape:
        - raw_NN: ``(..., N, N)``; output: ``(..., N, N)``

    Example:
        >>> cayley(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))  # a quarter turn
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    skew = (raw_NN - raw_NN.mT) / 2
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    turned: Tensor = torch.linalg.solve(eye + skew, eye - skew)
    return turned
