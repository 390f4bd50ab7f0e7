"""Triton program of Sinkhorn scaling: one matrix a program, from the first step to the last without leaving it.

The steps are those of :mod:`unimixer.ops.sinkhorn.newton`, whose names are kept: a few plain ones, epsilon scaling
for a matrix that they leave far from scaled, then guarded Newton steps. A Newton step is solved by conjugate gradients,
products of the plan with a vector, where the reference factors the Hessian. No step waits for the host.

The logarithm of the plan stays in memory, that is in caches, because 256 x 256 numbers do not fit registers, and is
passed over R rows at a time. Vectors of N numbers are in registers; one that is wanted row by row goes through memory
as well, with a barrier on either side.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from unimixer.ops.sinkhorn import newton as torch_newton

SINKHORN_STEPS = tl.constexpr(torch_newton.SINKHORN_STEPS)
ANNEAL_TOLERANCE = tl.constexpr(torch_newton.ANNEAL_TOLERANCE)
FIRST_RANGE = tl.constexpr(torch_newton.FIRST_RANGE)
MAX_NEWTON_STEP = tl.constexpr(torch_newton.MAX_NEWTON_STEP)
MAX_NEWTON_STEP_RAW = tl.constexpr(torch_newton.MAX_NEWTON_STEP_RAW)
TRUST_REGION_LOG = tl.constexpr(torch_newton.TRUST_REGION_LOG)
RIDGE = tl.constexpr(1e-6)
SMALLEST_LOG = tl.constexpr(torch_newton.SMALLEST_LOG)
OUTSIDE = tl.constexpr(-1e30)
"""What is read where a matrix has ended and its tile has not."""
PRECISE = tl.constexpr(1e-6)
"""Conjugate gradients stop where the squared residual has fallen by this."""


@triton.jit
def tile_of(first, size, N: tl.constexpr, R: tl.constexpr):
    """Rows of a tile, offsets of its entries, and which of these exist."""
    rows, at = first + tl.arange(0, R), tl.arange(0, N)
    return rows, rows[:, None] * size + at[None, :], (rows < size)[:, None] & (at < size)[None, :]


@triton.jit
def exponentials(tile, inside):
    """Exponentials of what exists, zero elsewhere."""
    return tl.where(inside, tl.exp(tl.where(inside, tl.maximum(tile, SMALLEST_LOG), 0.0)), 0.0)


@triton.jit
def plan_of(logits, offsets, inside):
    """Entries of the plan."""
    return exponentials(tl.load(logits + offsets, inside, OUTSIDE), inside)


@triton.jit
def by_row(vector, space, size, N: tl.constexpr):
    """Put a vector where rows of a tile can be read from it."""
    at = tl.arange(0, N)
    tl.debug_barrier()
    tl.store(space + at, vector, at < size)
    tl.debug_barrier()


@triton.jit
def sums(logits, space, size, N: tl.constexpr, R: tl.constexpr):
    """Row and column sums of the plan; 1 outside."""
    at = tl.arange(0, N)
    columns = tl.zeros((N,), tl.float32)
    tl.debug_barrier()
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        plan = plan_of(logits, offsets, inside)
        columns += tl.sum(plan, 0)
        tl.store(space + rows, tl.sum(plan, 1), rows < size)
    tl.debug_barrier()
    return tl.load(space + at, at < size, 1.0), tl.where(at < size, columns, 1.0)


@triton.jit
def shift(source, factor, logits, potential, space, size, SYMMETRIC: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """Write ``factor * source`` with a potential added; in the general case with columns that sum to one."""
    by_row(potential, space, size, N)
    if SYMMETRIC:
        beside = potential
    else:
        top, total = tl.full((N,), OUTSIDE, tl.float32), tl.zeros((N,), tl.float32)
        for first in range(0, size, R):
            rows, offsets, inside = tile_of(first, size, N, R)
            moved = factor * tl.load(source + offsets, inside, OUTSIDE)
            moved += tl.load(space + rows, rows < size, 0.0)[:, None]
            top = tl.maximum(top, tl.max(tl.where(inside, moved, OUTSIDE), 0))
        for first in range(0, size, R):
            rows, offsets, inside = tile_of(first, size, N, R)
            moved = factor * tl.load(source + offsets, inside, OUTSIDE)
            moved += tl.load(space + rows, rows < size, 0.0)[:, None]
            total += tl.sum(exponentials(moved - top[None, :], inside), 0)
        beside = -(top + tl.log(tl.maximum(total, 1e-30)))
        tl.debug_barrier()
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        moved = factor * tl.load(source + offsets, inside, OUTSIDE)
        own = tl.load(space + rows, rows < size, 0.0)
        moved = moved + (own[:, None] + beside[None, :])  # in this order symmetry is kept to the last bit
        tl.store(logits + offsets, moved, inside)
    tl.debug_barrier()


@triton.jit
def timeshessian(logits, rows_N, vector, space, size, SYMMETRIC: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """Product of the Hessian, with its ridge, and a vector."""
    at = tl.arange(0, N)
    down = tl.zeros((N,), tl.float32)
    by_row(vector, space, size, N)
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        own = tl.load(space + rows, rows < size, 0.0)
        down += tl.sum(plan_of(logits, offsets, inside) * own[:, None], 0)
    diagonal = (rows_N + RIDGE) * vector
    if SYMMETRIC:  # the plan is its own transpose
        result = diagonal + down
    else:
        tl.debug_barrier()
        for first in range(0, size, R):
            rows, offsets, inside = tile_of(first, size, N, R)
            tl.store(space + rows, tl.sum(plan_of(logits, offsets, inside) * down[None, :], 1), rows < size)
        tl.debug_barrier()
        result = diagonal - tl.load(space + at, at < size, 0.0) + tl.sum(vector, 0) / size
    return tl.where(at < size, result, 0.0)


@triton.jit
def plain(rows, SYMMETRIC: tl.constexpr):
    """A plain scaling step."""
    return tl.log(rows) * (-0.5 if SYMMETRIC else -1.0)


@triton.jit
def newton(logits, rows, space, size, SYMMETRIC: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """A guarded Newton step; a plain one where that cannot be trusted."""
    residual = 1 - rows
    preconditioned = residual / (rows + RIDGE)
    direction = preconditioned
    step = tl.zeros((N,), tl.float32)
    now = tl.sum(residual * preconditioned, 0)
    enough = now * PRECISE
    count = 0
    while (count < 2 * size) & (now > enough):
        product = timeshessian(logits, rows, direction, space, size, SYMMETRIC, N, R)
        along = now / tl.sum(direction * product, 0)
        step += along * direction
        residual -= along * product
        preconditioned = residual / (rows + RIDGE)
        following = tl.sum(residual * preconditioned, 0)
        direction = preconditioned + (following / now) * direction
        now = following
        count += 1
    step = tl.minimum(tl.maximum(step, -MAX_NEWTON_STEP_RAW), MAX_NEWTON_STEP_RAW)
    step = step * tl.minimum(1 / tl.maximum(tl.max(tl.abs(step), 0), 1e-30) * MAX_NEWTON_STEP, 1.0)
    total = tl.sum(step, 0)
    trusted = (total == total) & (tl.max(tl.abs(tl.log(rows)), 0) < TRUST_REGION_LOG)
    return tl.where(trusted, step, plain(rows, SYMMETRIC))


@triton.jit
def finish(logits, rounded, broken, space, size, SYMMETRIC: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """Turn logarithms into the plan, rounded to sums of one where it is unfinished (arXiv:1705.09634, Algorithm 2)."""
    at = tl.arange(0, N)
    row_sums, column_sums = sums(logits, space, size, N, R)
    row_scale = tl.where(rounded, 1 / tl.maximum(row_sums, 1.0), 1.0)
    column_scale = row_scale
    if not SYMMETRIC:
        column_scale = tl.where(rounded, 1 / tl.maximum(column_sums, 1.0), 1.0)
    by_row(row_scale, space, size, N)
    column_sums = tl.zeros((N,), tl.float32)
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        own = tl.load(space + rows, rows < size, 1.0)
        plan = plan_of(logits, offsets, inside) * (own[:, None] * column_scale[None, :])
        column_sums += tl.sum(plan, 0)
        tl.store(logits + offsets, tl.where(broken, float("nan"), plan), inside)
        tl.store(space + size + rows, tl.sum(plan, 1), rows < size)
    tl.debug_barrier()
    if rounded:
        missing_columns = tl.where(at < size, tl.maximum(1 - column_sums, 0.0), 0.0)
        missing_rows = tl.maximum(1 - tl.load(space + size + at, at < size, 1.0), 0.0)
        if SYMMETRIC:  # sums over rows and over columns may differ in their last digit
            missing_columns = missing_rows
        missing = tl.maximum(tl.maximum(tl.sum(missing_rows, 0), tl.sum(missing_columns, 0)), 1.2e-38)
        for first in range(0, size, R):
            rows, offsets, inside = tile_of(first, size, N, R)
            own = tl.maximum(1 - tl.load(space + size + rows, rows < size, 1.0), 0.0)
            plan = tl.load(logits + offsets, inside, 0.0) + own[:, None] * missing_columns[None, :] / missing
            tl.store(logits + offsets, plan, inside)


@triton.jit
def scale(
    scores,
    plans,
    targets,
    spaces,
    size,
    tolerance,
    max_iterations,
    SYMMETRIC: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    """Scale one matrix, in place in ``plans``; ``targets`` and ``spaces`` are its notebook."""
    own = tl.program_id(0).to(tl.int64)
    source, logits, target = (scores + own * size * size, plans + own * size * size, targets + own * size * size)
    space = spaces + own * 2 * size
    at = tl.arange(0, N)
    highest, wrong = tl.full((N,), OUTSIDE, tl.float32), tl.zeros((N,), tl.int32)
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        tile = tl.load(source + offsets, inside, OUTSIDE)
        wrong = tl.maximum(wrong, tl.max(((tile != tile) | (tile == float("inf"))).to(tl.int32), 0))
        highest = tl.maximum(highest, tl.max(tile, 0))
    broken = tl.max(wrong, 0) > 0  # reductions drop a NaN, so that it is put back at the end
    top = tl.max(highest, 0)
    tolerance = tl.where(broken, float("inf"), tolerance)
    potential = tl.zeros((N,), tl.float32)
    tl.debug_barrier()
    for first in range(0, size, R):
        rows, offsets, inside = tile_of(first, size, N, R)
        tile = tl.load(source + offsets, inside, OUTSIDE) - top
        tile = tl.where(broken, 0.0, tile)
        tl.store(logits + offsets, tile, inside)
        row_top = tl.max(tl.where(inside, tile, OUTSIDE), 1)
        total = tl.sum(exponentials(tile - row_top[:, None], inside), 1)
        tl.store(space + rows, (row_top + tl.log(tl.maximum(total, 1e-30))) * -0.5, rows < size)
    tl.debug_barrier()
    if SYMMETRIC:
        potential = tl.load(space + at, at < size, 0.0)
    shift(logits, 1.0, logits, potential, space, size, SYMMETRIC, N, R)
    rows, _columns = sums(logits, space, size, N, R)
    error = tl.max(tl.abs(rows - 1), 0)
    iteration = 0
    while (iteration < SINKHORN_STEPS) & (iteration < max_iterations) & (error > tolerance):
        shift(logits, 1.0, logits, plain(rows, SYMMETRIC), space, size, SYMMETRIC, N, R)
        rows, _columns = sums(logits, space, size, N, R)
        error = tl.max(tl.abs(rows - 1), 0)
        iteration += 1
    theta, potential = 1.0 + 0.0 * error, tl.zeros((N,), tl.float32)
    if error > ANNEAL_TOLERANCE:
        lowest = tl.zeros((N,), tl.float32)
        for first in range(0, size, R):
            _rows, offsets, inside = tile_of(first, size, N, R)
            tile = tl.load(logits + offsets, inside, 0.0)
            tl.store(target + offsets, tile, inside)
            lowest = tl.minimum(lowest, tl.min(tl.where(tile > -float("inf"), tile, 0.0), 0))
        tl.debug_barrier()
        theta = tl.minimum(1 / tl.maximum(-tl.min(lowest, 0), 1e-30) * FIRST_RANGE, 1.0)
        shift(target, theta, logits, potential, space, size, SYMMETRIC, N, R)
        rows, _columns = sums(logits, space, size, N, R)
        error = tl.max(tl.abs(rows - 1), 0)
    while (iteration < max_iterations) & ((error > tolerance) | (theta < 1.0)):
        step = newton(logits, rows, space, size, SYMMETRIC, N, R)
        potential += step
        if (error < ANNEAL_TOLERANCE) & (theta < 1.0):
            colder = tl.minimum(2 * theta, 1.0)
            potential = potential * (colder / theta)
            theta = colder
            shift(target, theta, logits, potential, space, size, SYMMETRIC, N, R)
        else:
            shift(logits, 1.0, logits, step, space, size, SYMMETRIC, N, R)
        rows, _columns = sums(logits, space, size, N, R)
        error = tl.max(tl.abs(rows - 1), 0)
        iteration += 1
    finish(logits, (error > tolerance) | (theta < 1.0), broken, space, size, SYMMETRIC, N, R)
