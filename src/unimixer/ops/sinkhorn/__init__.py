"""Sinkhorn scaling to a doubly stochastic matrix: ``reference`` defines it, ``operator`` is what training runs."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, check_positive
from unimixer.ops.sinkhorn.operator import solve
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

    Backward solves one linear system with the saved result, in float64: its memory does not depend on the iterations.
    Second derivatives work too. Every matrix of a batch stops at its own tolerance and then costs nothing more.

    Where ``max_iterations`` is reached, the nearest iterate is rounded to a doubly stochastic matrix: its sums are one
    and its symmetry exact all the same, while its entries are those of a larger temperature or of an unfinished
    scaling, and its gradient is as approximate. Such are matrices without a doubly stochastic scaling, for which a
    mask of ``-inf`` leaves no permutation. A NaN or ``+inf`` makes NaN of every sum of its own matrix; finding them
    any earlier would make a GPU wait.

    Args:
        logits: raw matrices W; float32 and the log domain are used whatever the autocast (float64 stays float64).
            ``-inf`` masks an entry. Large ones cost digits: a float32 logit of 1000 at ``tau=0.01`` is exact to 1%.
        tau: temperature; the lower, the closer to a permutation. A tensor may have a gradient and one value per matrix
            (shape ``(..., 1, 1)``), and must be positive, which is not checked.
        symmetric: whether to constrain the result to be symmetric.
        tolerance: largest deviation of a row or column sum from one; at least sixteen times the precision is used.
        max_iterations: most steps of the solver; ordinary inputs need 5 to 20, hard ones 50, and the hardest known 140.

    Shape:
        - logits: ``(..., N, N)``
        - output: ``(..., N, N)``

    Example:
        >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), tau=0.1, symmetric=True).round(decimals=3)
        tensor([[0., 1.],
                [1., 0.]])
    """
    if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2] or logits.shape[-1] < 1:
        raise UnimixerError(f"logits has shape {tuple(logits.shape)}, expected square matrices (..., N, N)")
    if not logits.is_floating_point():
        raise UnimixerError(f"logits has dtype {logits.dtype}, expected floating point; convert with logits.float()")
    if not isinstance(tau, Tensor):
        check_positive(tau=tau)
    check_positive(max_iterations=max_iterations)
    if not tolerance >= 0:
        raise UnimixerError(f"tolerance={tolerance} must not be negative")
    scores = (logits if logits.dtype == torch.float64 else logits.float()) / tau
    if symmetric:
        scores = (scores + scores.mT) / 2
    result: Tensor = solve(scores, symmetric, tolerance, max_iterations)
    return result
