"""Sinkhorn scaling to a doubly stochastic matrix: ``reference`` defines it, ``implicit`` is what training runs."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, check_positive
from unimixer.ops.sinkhorn.implicit import solve
from unimixer.ops.sinkhorn.reference import sinkhorn_reference

__all__ = ["sinkhorn", "sinkhorn_reference"]


def sinkhorn(
    logits: Tensor,
    *,
    tau: float | Tensor = 1.0,
    symmetric: bool = False,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> Tensor:
    r"""The doubly stochastic matrix that scales :math:`\exp(W / \tau)`.

    .. math:: \bar W = D_1 \exp(W / \tau) D_2, \qquad \bar W 1 = \bar W^T 1 = 1

    arXiv:2604.00590, "UniMixing" (Sinkhorn-Knopp with a temperature). Where the paper alternates row and column
    normalisation a number of times that it does not give, this solves to a tolerance, and differentiates the solution.
    The symmetric case takes :math:`(W + W^T) / 2` and one vector, :math:`D_1 = D_2`: the result equals its transpose
    exactly, which alternation does not achieve.

    Args:
        logits: raw matrices W; float32 and the log domain are used whatever the autocast (float64 stays float64).
        tau: temperature; the lower, the closer to a permutation.
        symmetric: whether to constrain the result to be symmetric.
        tolerance: largest deviation of a row or column sum from one.
        max_iterations: most steps of the solver; ordinary inputs need 5 to 30.

    Shape:
        - logits: ``(..., N, N)``
        - output: ``(..., N, N)``

    Example:
        >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), tau=0.1, symmetric=True).round(decimals=3)
        tensor([[0., 1.],
                [1., 0.]])
    """
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
        raise UnimixerError(f"logits has shape {tuple(logits.shape)}, expected square matrices (..., N, N)")
    if not isinstance(tau, Tensor):
        check_positive(tau=tau)
    scores = (logits if logits.dtype == torch.float64 else logits.float()) / tau
    if symmetric:
        scores = (scores + scores.mT) / 2
    result: Tensor = solve(scores, symmetric, tolerance, max_iterations)
    return result
