"""The definition of Sinkhorn scaling: plain iterations in the log domain, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn_reference(
    scores: Tensor, *, symmetric: bool = False, tolerance: float = 1e-5, max_iterations: int = 10_000
) -> Tensor:
    r"""Scale ``exp(scores)`` until every row and every column sums to one.

    General: :math:`P_{ij} = e^{S_{ij} + f_i + g_j}`, by turns :math:`f = -\log\sum_j e^{S_{ij} + g_j}` and
    :math:`g = -\log\sum_i e^{S_{ij} + f_i}`. Symmetric, for :math:`S = S^T`: one vector,
    :math:`P_{ij} = e^{S_{ij} + f_i + f_j}`, by the damped fixed point
    :math:`f \leftarrow (f - \log\sum_j e^{S_{ij} + f_j}) / 2`, so that :math:`P = P^T` to the last bit.

    Sinkhorn and Knopp, 1967; the constraint of arXiv:2604.00590, "UniMixing".

    Shape:
        - scores: ``(..., N, N)``, already divided by the temperature
        - output: ``(..., N, N)``

    Example:
        >>> sinkhorn_reference(torch.zeros(2, 2))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    row_potential = torch.zeros_like(scores[..., 0])
    plan = scores
    for _ in range(max_iterations):
        if symmetric:
            update = -torch.logsumexp(scores + row_potential.unsqueeze(-2), -1)
            row_potential = (row_potential + update) / 2
            plan = (scores + (row_potential.unsqueeze(-1) + row_potential.unsqueeze(-2))).exp()
        else:
            column_potential = -torch.logsumexp(scores + row_potential.unsqueeze(-1), -2)
            row_potential = -torch.logsumexp(scores + column_potential.unsqueeze(-2), -1)
            plan = (scores + row_potential.unsqueeze(-1) + column_potential.unsqueeze(-2)).exp()
        errors = torch.stack([(plan.sum(axis) - 1).abs().amax() for axis in (-1, -2)])
        if not bool(errors.amax() > tolerance):
            break
    return plan
