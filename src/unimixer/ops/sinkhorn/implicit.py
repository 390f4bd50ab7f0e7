"""Sinkhorn scaling by guarded Newton steps, with the gradient of the solution instead of that of the iterations.

Both cases are one convex problem in one vector ``f`` whose gradient is ``rows - 1``:

========== ============================== ===================== ====================
case       plan P(f)                      plain scaling step    Hessian
========== ============================== ===================== ====================
symmetric  exp(S + f 1^T + 1 f^T)         f -= log(rows) / 2    diag(rows) + P
general    softmax over columns (S + f)   f -= log(rows)        diag(rows) - P P^T
========== ============================== ===================== ====================

Plain steps need thousands of iterations where P is close to a permutation (eigenvalues of P near -1 and +1 slow them
down), Newton steps about ten. There the Hessian is singular as well, in directions that leave P unchanged, so a small
ridge is added and the gradient stays right. The solver is a custom operator: opaque to ``torch.compile`` and
``torch.export``, which could not trace a loop that stops by tolerance.
"""

from __future__ import annotations

import torch
from torch import Tensor

PLAIN_STEPS = 3
"""Plain scaling steps before the first Newton step."""
LARGEST_STEP = 2.0
"""Bound on the change of any potential in a Newton step; a matrix further than this from scaled takes plain steps."""
RIDGE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Added to the Hessian's diagonal."""
SMALLEST_LOG = -60.0
"""Entries below exp(-60) are kept there: they carry no weight, and denormal numbers would slow every step."""


@torch.library.custom_op(
    "unimixer::sinkhorn", mutates_args=(), schema="(Tensor s, bool sym, float tol, int n) -> Tensor"
)
def solve(scores: Tensor, symmetric: bool, tolerance: float, max_iterations: int) -> Tensor:
    """The doubly stochastic scaling of ``exp(scores)``; ``scores`` must be symmetric if ``symmetric`` is said."""
    with torch.autocast(scores.device.type, enabled=False):
        potential = torch.zeros_like(scores[..., 0])
        if symmetric:
            potential = -0.5 * torch.logsumexp(scores, -1)
        plan = _plan(scores, potential, symmetric)
        for iteration in range(max_iterations):
            rows = plan.sum(-1)
            if not bool((rows - 1).abs().amax() > tolerance):
                break
            step = _step(plan, rows, symmetric, newton=iteration >= PLAIN_STEPS)
            potential = potential + step
            if iteration <= PLAIN_STEPS:
                plan = _plan(scores, potential, symmetric)
            else:  # multiplying by factors near one loses no digits, where float32 potentials of size 100 lose three
                plan = _rescale(plan, step.exp(), symmetric)
        return plan.contiguous()


def _plan(scores: Tensor, potential: Tensor, symmetric: bool) -> Tensor:
    if symmetric:  # the sum of both potentials first: the plan is then symmetric to the last bit
        shift = potential.unsqueeze(-1) + potential.unsqueeze(-2)
        return (scores + shift).clamp_(min=SMALLEST_LOG).exp_()
    logits = torch.log_softmax(scores + potential.unsqueeze(-1), -2)
    return logits.clamp_(min=SMALLEST_LOG).exp_()


def _rescale(plan: Tensor, factor: Tensor, symmetric: bool) -> Tensor:
    if symmetric:
        return plan * (factor.unsqueeze(-1) * factor.unsqueeze(-2))
    plan = plan * factor.unsqueeze(-1)
    return plan / plan.sum(-2, keepdim=True)


def _step(plan: Tensor, rows: Tensor, symmetric: bool, newton: bool) -> Tensor:
    """A Newton step for every matrix where it can be trusted, a plain one for the others."""
    log_rows = rows.clamp_min(1e-30).log()
    plain = -log_rows / 2 if symmetric else -log_rows
    if not newton:
        return plain
    factor, failed = torch.linalg.cholesky_ex(_hessian(plan, rows, symmetric))
    step = torch.cholesky_solve((1 - rows).unsqueeze(-1), factor).squeeze(-1)
    step = step * (LARGEST_STEP / step.abs().amax(-1, keepdim=True)).clamp(max=1)
    trusted = (failed == 0) & torch.isfinite(step).all(-1) & (log_rows.abs().amax(-1) < LARGEST_STEP)
    return torch.where(trusted.unsqueeze(-1), step, plain)


def _hessian(plan: Tensor, rows: Tensor, symmetric: bool) -> Tensor:
    # In the general case a constant added to f changes nothing: 1 1^T / N fills that direction.
    matrix = plan if symmetric else 1 / plan.shape[-1] - plan @ plan.mT
    return matrix + torch.diag_embed(rows + RIDGE[plan.dtype])


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
    with torch.autocast(plan.device.type, enabled=False):
        # Near a permutation the small eigenvalues of the Hessian drown in the rounding of float32.
        wide = plan if plan.device.type == "mps" else plan.double()
        if not ctx.symmetric:  # type: ignore[attr-defined]
            wide = wide / wide.sum(-2, keepdim=True)
        moved = grad * wide
        rows, columns = moved.sum(-1), moved.sum(-2)
        if ctx.symmetric:  # type: ignore[attr-defined]
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
    factor, _ = torch.linalg.cholesky_ex(_hessian(plan, plan.sum(-1), symmetric))
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)


solve.register_autograd(_backward, setup_context=_setup_context)
