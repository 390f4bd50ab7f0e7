"""Fit sums of powers to logarithms: robust, bounded, from several starts, for many data sets at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HUBER = 1.345
"""Residual at which Huber's loss turns linear, in standard deviations; 95% efficient for normal noise."""
ABSOLUTE = 0.02
"""The same for a loss that is linear nearly everywhere."""
ITERATIONS = 60
RESCALINGS = 3
_SMALL = 1e-9


@dataclass(frozen=True)
class Problem:
    r"""Data of one fit of :math:`\log y = \log\bigl(c + \sum_k e^{\alpha_k + \beta_k x_k}\bigr)`.

    Args:
        x: centered logarithms of the sizes that the metric depends on: ``(K, n)``.
        log_y: logarithms of the metric ``(n,)``.
        lower: of ``alpha_1, beta_1, ..., c``: ``(2K + 1,)``.
        upper: the same; a coefficient with two equal bounds is not fitted. ``c`` also stays below the smallest ``y``.
        slopes: exponents from which to start, one set of ``K`` each.
    """

    x: Array
    log_y: Array
    lower: Array
    upper: Array
    slopes: tuple[tuple[float, ...], ...]

    @property
    def free(self) -> int:
        """Number of fitted coefficients."""
        return int((self.upper > self.lower).sum())


@dataclass(frozen=True)
class Solution:
    """The result of a fit: coefficients ``(p,)``, residuals of the logarithms ``(n,)``, and their robust scale."""

    theta: Array
    residuals: Array
    scale: float


def evaluate(theta: Array, x: Array) -> Array:
    r"""Compute :math:`\log f` for every row of coefficients: ``(R, 2K + 1)`` and ``(K, n)`` give ``(R, n)``."""
    parts = [np.exp(_clip(theta[:, 2 * k, None] + theta[:, 2 * k + 1, None] * x[k])) for k in range(len(x))]
    return np.asarray(np.log(np.maximum(sum(parts) + theta[:, -1, None], _SMALL**4)))


def fit(problem: Problem) -> Solution:
    r"""Minimize Huber's loss of the residuals of the logarithms.

    The first fit is least squares from every start (floors :math:`c` at several shares of the smallest metric, crossed
    with the given exponents), the second nearly least absolute deviations, which an outlier hardly moves; then the
    scale :math:`s` of the residuals is taken (median absolute deviation, corrected for the coefficients) and the loss
    is square up to :math:`1.345 s` and linear beyond; this step is repeated.
    Huber (1964); that residuals of logarithms suit scaling laws: Hoffmann et al. (arXiv:2203.15556).

    Example:
        >>> x = np.log([[1.0, 2.0, 4.0, 8.0, 16.0]])
        >>> lower, upper = np.array([-30.0, -3.0, 0.0]), np.array([30.0, 3.0, 0.0])
        >>> y = np.array([1.0, 2.0, 4.0, 80.0, 16.0])  # one point lies ten times too high
        >>> found = fit(Problem(x, np.log(y), lower, upper, ((0.5,),)))
        >>> round(float(found.theta[1]), 1)
        1.0
    """
    y, starts = problem.log_y[None], _starts(problem)
    upper = _upper(problem, y)
    many = np.repeat(y, len(starts), axis=0)
    theta, loss = _descend(problem, many, starts, np.repeat(upper, len(starts), axis=0), np.inf)
    best = theta[[int(np.argmin(loss))]]
    scale = _scale(_residuals(problem, y, best)[0], problem.free)
    best, _ = _descend(problem, y, best, upper, ABSOLUTE * scale)
    scale = _scale(_residuals(problem, y, best)[0], problem.free)
    for _ in range(RESCALINGS):
        best, _ = _descend(problem, y, best, upper, HUBER * scale)
        scale = _scale(_residuals(problem, y, best)[0], problem.free)
    return Solution(best[0], _residuals(problem, y, best)[0], scale)


def refit(problem: Problem, solution: Solution, log_y: Array) -> Array:
    """Fit many other sets of metrics at the same sizes, with the scale of the first fit.

    Args:
        problem: the first fit's data.
        solution: result of the first fit, the first start of every set.
        log_y: ``(R, n)``.

    Returns:
        ``(R, 2K + 1)``.
    """
    starts = solution.theta[None]
    if problem.upper[-1] > problem.lower[-1]:  # a fitted floor has local minima
        starts = np.concatenate([starts, _starts(problem)[:: max(1, len(_starts(problem)) // 3)]])
    upper = _upper(problem, log_y)
    many = np.repeat(log_y, len(starts), axis=0)
    tops = np.repeat(upper, len(starts), axis=0)
    theta, loss = _descend(problem, many, np.tile(starts, (len(log_y), 1)), tops, HUBER * solution.scale)
    best = np.argmin(loss.reshape(len(log_y), len(starts)), axis=1)
    return np.asarray(theta.reshape(len(log_y), len(starts), -1)[np.arange(len(log_y)), best])


def _starts(problem: Problem) -> Array:
    """Combine every start of the floor with every set of exponents; the coefficients follow."""
    floor, top = problem.lower[-1], min(problem.upper[-1], float(np.exp(problem.log_y.min())))
    shares = (0.0, 0.5, 0.8, 0.95) if problem.upper[-1] > floor else (0.0,)
    y, terms = np.exp(problem.log_y), len(problem.x)
    starts = []
    for share in shares:
        c = floor + share * (top - floor)
        rest = np.log(np.maximum(y - c, 1e-3 * y).mean() / terms)
        for slopes in problem.slopes:
            starts.append([value for slope in slopes for value in (rest, slope)] + [c])
    return np.asarray(np.clip(np.array(starts), problem.lower, problem.upper))


def _upper(problem: Problem, log_y: Array) -> Array:
    """Compute the upper bounds, one row per data set: a floor lies below every metric."""
    upper = np.repeat(problem.upper[None], len(log_y), axis=0)
    lowest = np.exp(log_y.min(axis=1)) * (1 - 1e-6)
    if problem.upper[-1] > problem.lower[-1]:
        upper[:, -1] = np.maximum(np.minimum(upper[:, -1], lowest), problem.lower[-1])
    return upper


def _descend(problem: Problem, log_y: Array, start: Array, upper: Array, delta: float) -> tuple[Array, Array]:
    """Descend by Levenberg and Marquardt's method with Huber's weights inside a box, one data set per row."""
    x, lower = problem.x, problem.lower[None]
    theta = np.clip(start, lower, upper)
    damping = np.full(len(theta), 1e-3)
    residuals = log_y - evaluate(theta, x)
    loss, diagonal = _huber(residuals, delta), np.arange(theta.shape[1])
    active = np.arange(len(theta))
    for _ in range(ITERATIONS):
        now, left = theta[active], residuals[active]
        slopes = _jacobian(now, x)
        weights = np.minimum(1.0, delta / np.maximum(np.abs(left), _SMALL)) if np.isfinite(delta) else np.ones(1)
        weighted = slopes * np.broadcast_to(weights, left.shape)[..., None]
        gradient = np.einsum("rnp,rn->rp", weighted, left)
        square = np.einsum("rnp,rnq->rpq", weighted, slopes)
        held = (upper[active] <= lower) | ((now <= lower) & (gradient < 0)) | ((now >= upper[active]) & (gradient > 0))
        gradient = np.where(held, 0.0, gradient)
        square = np.where(held[:, :, None] | held[:, None, :], 0.0, square)
        size = square[:, diagonal, diagonal]
        square[:, diagonal, diagonal] = size + damping[active, None] * (size + 1e-12) + np.where(held, 1.0, 1e-14)
        step = np.linalg.solve(square, gradient[..., None])[..., 0]
        tried = np.clip(now + np.clip(step, -2.0, 2.0), lower, upper[active])
        errors = log_y[active] - evaluate(tried, x)
        new = _huber(errors, delta)
        better = new <= loss[active]
        gain = loss[active] - new
        done = (better & (gain <= 1e-10 * loss[active] + 1e-18)) | (damping[active] > 1e8)
        improved = active[better]
        theta[improved], residuals[improved], loss[improved] = tried[better], errors[better], new[better]
        damping[active] *= np.where(better, 0.2, 5.0)
        active = active[~done]
        if not len(active):
            break
    return theta, loss


def _jacobian(theta: Array, x: Array) -> Array:
    r"""Compute the derivatives of :math:`\log f` by the coefficients: ``(R, n, p)``."""
    parts = [np.exp(_clip(theta[:, 2 * k, None] + theta[:, 2 * k + 1, None] * x[k])) for k in range(len(x))]
    total = np.maximum(sum(parts) + theta[:, -1, None], _SMALL**4)
    columns = [value for k, part in enumerate(parts) for value in (part / total, part / total * x[k])]
    return np.stack([*columns, 1.0 / total], axis=-1)


def _residuals(problem: Problem, log_y: Array, theta: Array) -> Array:
    return log_y - evaluate(theta, problem.x)


def _huber(residuals: Array, delta: float) -> Array:
    size = np.abs(residuals)
    if not np.isfinite(delta):
        return np.asarray(0.5 * (size**2).sum(axis=1))
    return np.asarray(np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=1))


def _scale(residuals: Array, free: int) -> float:
    """Estimate the standard deviation from the median of as many large residuals as there are degrees of freedom."""
    largest = np.sort(np.abs(residuals))[min(free, len(residuals) - 1) :]
    return max(float(1.4826 * np.median(largest)), 1e-7)


def _clip(power: Array) -> Array:
    return np.clip(power, -300.0, 300.0)
