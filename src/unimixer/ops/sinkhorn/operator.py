"""Sinkhorn scaling as an operator: choose the solver, and differentiate the solution instead of the iterations.

The operator is opaque to ``torch.compile`` and ``torch.export``, which cannot trace a loop that stops by tolerance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.ops.sinkhorn import triton
from unimixer.ops.sinkhorn.newton import hessian, scale


@torch.library.custom_op(
    "unimixer::sinkhorn", mutates_args=(), schema="(Tensor s, bool sym, float tol, int n) -> Tensor"
)
def solve(scores: Tensor, symmetric: bool, tolerance: float, max_iterations: int) -> Tensor:
    """The doubly stochastic scaling of ``exp(scores)``; ``scores`` must be symmetric if ``symmetric`` is said."""
    if triton.supports(scores):
        return triton.sinkhorn_scaling(scores, symmetric, tolerance, max_iterations)
    return scale(scores, symmetric, tolerance, max_iterations)[0]


@solve.register_fake
def _(scores: Tensor, symmetric: bool, tolerance: float, max_iterations: int) -> Tensor:
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.symmetric = inputs[1]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
    r"""The implicit gradient.

    Rows and columns of P stay at one while the scores move, :math:`dP = P \circ (dS + df 1^T + 1 dg^T)`; so the
    cotangent :math:`M = G \circ P` loses :math:`P \circ (a 1^T + 1 b^T)` with :math:`a + P b = M 1` and
    :math:`P^T a + b = M^T 1`. In the symmetric case :math:`a = b = (I + P)^{-1} (M + M^T) 1 / 2`.
    """
    (plan,) = ctx.saved_tensors  # type: ignore[attr-defined]
    symmetric: bool = ctx.symmetric  # type: ignore[attr-defined]
    with torch.autocast(plan.device.type, enabled=False):
        # Near a permutation the small eigenvalues of the Hessian drown in the rounding of float32.
        wide = plan if plan.device.type == "mps" else plan.double()
        if not symmetric:
            wide = wide / wide.sum(-2, keepdim=True)
        moved = grad * wide
        rows, columns = moved.sum(-1), moved.sum(-2)
        if symmetric:
            left = right = _solve_hessian(wide, (rows + columns) / 2, symmetric=True)
        else:
            left = _solve_hessian(wide, rows - _times(wide, columns), symmetric=False)
            right = columns - _times(wide.mT, left)
        moved = moved - wide * (left.unsqueeze(-1) + right.unsqueeze(-2))
        return moved.to(plan.dtype), None, None, None


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _solve_hessian(plan: Tensor, right: Tensor, symmetric: bool) -> Tensor:
    """Solve ``(I + P) z = right`` or ``(I - P P^T) z = right``, both of which may be singular."""
    factor, _ = torch.linalg.cholesky_ex(hessian(plan, plan.sum(-1), symmetric))
    if not plan.is_cuda:
        return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    # on a GPU cholesky_solve of a batch allocates memory of its own, which a CUDA graph cannot capture
    half: Tensor = torch.linalg.solve_triangular(factor, right.unsqueeze(-1), upper=False)
    whole: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return whole.squeeze(-1)


solve.register_autograd(_backward, setup_context=_setup_context)
