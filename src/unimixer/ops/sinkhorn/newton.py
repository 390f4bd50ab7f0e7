"""Sinkhorn scaling by guarded Newton steps, in plain torch on any device.

Both cases are one convex problem in one vector ``f`` whose gradient is ``rows - 1``:

========== ============================== ===================== ====================
case       plan P(f)                      plain scaling step    Hessian
========== ============================== ===================== ====================
symmetric  exp(S + f 1^T + 1 f^T)         f -= log(rows) / 2    diag(rows) + P
general    softmax over columns (S + f)   f -= log(rows)        diag(rows) - P P^T
========== ============================== ===================== ====================

Plain steps need thousands of iterations where P is close to a permutation (eigenvalues of P near -1 and +1 slow them
down), Newton steps about ten. There the Hessian is singular as well, in directions that leave P unchanged, so a small
ridge is added and the gradient stays right.

A Newton step is good for potentials that are off by one or two, while those of sharp scores are off by hundreds. A
matrix that the plain steps leave far from scaled is therefore solved hot first: ``theta * S`` for a small ``theta``,
which doubles, and the potentials with it, whenever the rows are roughly right (epsilon scaling in optimal transport,
arXiv:1610.06519). Scores of range 10,000 then take some forty steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

SINKHORN_STEPS = 4
"""Plain scaling steps before the first Newton step."""
ANNEAL_TOLERANCE = 0.7
"""A matrix whose row sums deviate by less needs no heating or, if it is hot already, goes on to the next theta."""
FIRST_RANGE = 40.0
"""Range of ``theta * S`` at the first theta."""
MAX_NEWTON_STEP = 2.0
"""Bound on the change of any potential in a Newton step."""
MAX_NEWTON_STEP_RAW = 8.0
"""Bound on each component before that: a nearly singular direction asks for thousands and would stop all others."""
TRUST_REGION_LOG = 4.0
"""A matrix with a row sum outside exp(-4) to exp(4) takes plain steps."""
RIDGE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Added to the Hessian's diagonal."""
SMALLEST_LOG = -60.0
"""Entries below exp(-60) are kept there: they carry no weight, and denormal numbers would slow every step."""


def scale(scores: Tensor, symmetric: bool, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """The plans ``(..., N, N)`` and how many steps each took ``(...,)``; a solved matrix leaves the batch at once."""
    with torch.autocast(scores.device.type, enabled=False):
        logits = scores.reshape(-1, *scores.shape[-2:])
        logits = logits - logits.amax((-2, -1), keepdim=True)  # a large constant would leave float32 few digits
        if symmetric:
            top = logits.amax(-1, keepdim=True)  # logsumexp, without the denormal numbers that slow it
            log_rows = top.squeeze(-1) + (logits - top).clamp_(min=SMALLEST_LOG).exp_().sum(-1).log()
            logits = _shift(logits, log_rows / -2, symmetric)
        else:
            logits = torch.log_softmax(logits, -2)
        target, potential = logits, torch.zeros_like(logits[..., 0])
        theta = torch.ones_like(potential[:, :1])
        plans, place = torch.empty_like(logits), torch.arange(len(logits), device=logits.device)
        steps = torch.full_like(place, max_iterations)
        tolerance = max(tolerance, 16 * torch.finfo(plans.dtype).eps)
        for iteration in range(max_iterations):
            plan = logits.clamp(min=SMALLEST_LOG).exp_()
            rows = plan.sum(-1)
            error = (rows - 1).abs().amax(-1, keepdim=True)
            unsolved = ((error > tolerance) | (theta < 1)).squeeze(-1)  # not a number counts as solved
            if not bool(unsolved.all()):
                solved, rest = (~unsolved).nonzero().squeeze(-1), unsolved.nonzero().squeeze(-1)
                plans.index_copy_(0, place[solved], plan.index_select(0, solved))
                steps[place[solved]] = iteration
                if not len(rest):
                    break
                state = place, target, theta, potential, logits, plan, rows, error
                place, target, theta, potential, logits, plan, rows, error = (x.index_select(0, rest) for x in state)
            step = _step(plan, rows, symmetric, newton=iteration >= SINKHORN_STEPS)
            logits = _shift(logits, step, symmetric)
            if iteration < SINKHORN_STEPS:  # a shifted problem has the same solution, and a smaller range
                target, hotter = logits, _first_theta(logits) if iteration == SINKHORN_STEPS - 1 else theta
            else:
                potential, hotter = potential + step, theta
            following = torch.where(error < ANNEAL_TOLERANCE, (2 * theta).clamp(max=1), hotter)
            if bool((following != theta).any()):
                potential = potential * (following / theta)
                fresh = _shift(target * following.unsqueeze(-1), potential, symmetric)
                logits = torch.where((following != theta).unsqueeze(-1), fresh, logits)
                theta = following
        else:
            plans[place] = _rounded(plan, symmetric)
        return plans.reshape(scores.shape), steps.reshape(scores.shape[:-2])


def _shift(logits: Tensor, potential: Tensor, symmetric: bool) -> Tensor:
    """The logarithm of the plan. Shifting it step by step keeps digits that large potentials would lose."""
    if symmetric:  # the sum of both potentials first: the plan is then symmetric to the last bit
        return logits + (potential.unsqueeze(-1) + potential.unsqueeze(-2))
    return torch.log_softmax(logits + potential.unsqueeze(-1), -2)


def _first_theta(scores: Tensor) -> Tensor:
    lowest = scores.masked_fill(scores.isneginf(), torch.inf).amin((-2, -1))
    return (FIRST_RANGE / -lowest).clamp(max=1).unsqueeze(-1)


def _step(plan: Tensor, rows: Tensor, symmetric: bool, newton: bool) -> Tensor:
    """A Newton step for every matrix where it can be trusted, a plain one for the others."""
    log_rows = rows.log()
    plain = log_rows / (-2 if symmetric else -1)
    if not newton:
        return plain
    factor, failed = torch.linalg.cholesky_ex(hessian(plan, rows, symmetric))
    step = torch.cholesky_solve((1 - rows).unsqueeze(-1), factor).squeeze(-1)
    step = step.clamp(-MAX_NEWTON_STEP_RAW, MAX_NEWTON_STEP_RAW)
    step = step * (MAX_NEWTON_STEP / step.abs().amax(-1, keepdim=True)).clamp(max=1)
    trusted = (failed == 0) & torch.isfinite(step).all(-1) & (log_rows.abs().amax(-1) < TRUST_REGION_LOG)
    return torch.where(trusted.unsqueeze(-1), step, plain)


def hessian(plan: Tensor, rows: Tensor, symmetric: bool) -> Tensor:
    """The Hessian of the convex problem with its ridge."""
    # In the general case a constant added to f changes nothing: 1 1^T / N fills that direction.
    matrix = plan if symmetric else 1 / plan.shape[-1] - plan @ plan.mT
    return matrix + torch.diag_embed(rows + RIDGE[plan.dtype])


def _rounded(plan: Tensor, symmetric: bool) -> Tensor:
    """A doubly stochastic matrix near the plan, symmetric where that is (arXiv:1705.09634, Algorithm 2)."""
    axes = (-1, -1) if symmetric else (-1, -2)
    row_scale, column_scale = (plan.sum(axis).clamp(min=1).reciprocal() for axis in axes)
    plan = plan * (row_scale.unsqueeze(-1) * column_scale.unsqueeze(-2))  # no sum exceeds one any more
    rows, columns = ((1 - plan.sum(axis)).clamp(min=0) for axis in axes)
    missing = torch.maximum(rows.sum(-1), columns.sum(-1)).clamp(min=torch.finfo(plan.dtype).tiny)
    return plan + (rows.unsqueeze(-1) * columns.unsqueeze(-2)) / missing[..., None, None]
