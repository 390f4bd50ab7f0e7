"""How far a fit can be trusted: a bootstrap over sizes and, within them, over seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.curve_fit import Array, Problem, Solution, refit

LEVEL = 0.95
"""Coverage of every interval."""
REPLICATES = 2_000
_LARGEST = 5.0
"""Of a drawn error of a logarithm: with one degree of freedom draws have no bound, and powers of them overflow."""


@dataclass(frozen=True)
class Noise:
    """What the residuals of a fit say about chance.

    Args:
        between: standard deviation of a size's mean residual, ``None`` where sizes are no more than coefficients.
        within: standard deviation of a run around its size, ``None`` where every size has one run.
        sizes: degrees of freedom of ``between``.
        runs: degrees of freedom of ``within``.
        seeds: runs a size, the harmonic mean.
        means: mean residuals of the sizes, to draw from, with mean square 1.
        deviations: residuals of runs around their size, to draw from, with mean square 1.
    """

    between: float | None
    within: float | None
    sizes: int
    runs: int
    seeds: float
    means: Array
    deviations: Array

    @property
    def known(self) -> bool:
        """Whether there is anything to draw an interval from."""
        return self.between is not None or self.within is not None


@dataclass(frozen=True)
class Draws:
    """Coefficients of the refitted draws ``(R, p)``, and errors of one new run of a new size ``(R,)``."""

    theta: Array
    errors: Array


def noise(residuals: Array, size: NDArray[np.int64], free: int) -> Noise:
    r"""Split the residuals of the logarithms into what runs of one size share and what they do not.

    With :math:`r_{ij}` the residual of run :math:`j` of size :math:`i`, :math:`k` sizes, :math:`n` runs and :math:`p`
    fitted coefficients, :math:`S_b^2 = \sum_i \bar r_i^2 / (k - p)` and
    :math:`S_w^2 = \sum_{ij} (r_{ij} - \bar r_i)^2 / (n - k)`.

    Args:
        residuals: ``(n,)``.
        size: number of its size, from 0, for each run ``(n,)``.
        free: coefficients that were fitted.
    """
    counts = np.bincount(size)
    means = np.bincount(size, residuals) / counts
    around = residuals - means[size]
    sizes, runs = len(counts) - free, len(residuals) - len(counts)
    between = float(np.sqrt((means**2).sum() / sizes)) if sizes > 0 else None
    within = float(np.sqrt((around**2).sum() / runs)) if runs > 0 else None
    spread = around[counts[size] > 1]
    return Noise(between, within, sizes, runs, len(counts) / float((1 / counts).sum()), _unit(means), _unit(spread))


def bootstrap(
    problem: Problem,
    solution: Solution,
    size: NDArray[np.int64],
    *,
    replicates: int,
    generator: np.random.Generator,
) -> Draws | None:
    r"""Refit metrics that could as well have come out: fitted values with drawn errors of sizes and of runs.

    The sizes stay as they were planned: drawing sizes themselves would leave one draw in ten of five sizes with two
    different ones or fewer. What is drawn, with replacement and with random sign, are the errors in two steps: one of
    the sizes' mean residuals for each size, then one of the runs' deviations for each run. The variance of a size's
    mean is :math:`S_b^2`, and the part of it that seeds explain comes from the second step. Each draw first draws how
    large the noise is, :math:`S^2 \nu / \chi^2_\nu`, so that few sizes give the wide intervals of Student's t and not
    those of a normal law. Where there are no more sizes than coefficients, :math:`S_w^2` is all that is known.

    Returns:
        ``None`` where the residuals say nothing: as many coefficients as sizes and one run each.
    """
    found = noise(solution.residuals, size, problem.free)
    if not found.known:
        return None
    sizes, runs = int(size.max()) + 1, len(size)
    own = _variance(found.within, found.runs, replicates, generator)
    whole = _variance(found.between, found.sizes, replicates, generator)
    level, shared = np.sqrt(own)[:, None], np.sqrt(np.maximum(whole - own / found.seeds, 0.0))[:, None]
    of_sizes = np.clip(shared * _errors(found.means, (replicates, sizes + 1), generator), -_LARGEST, _LARGEST)
    of_runs = np.clip(level * _errors(found.deviations, (replicates, runs + 1), generator), -_LARGEST, _LARGEST)
    fitted = problem.log_y - solution.residuals
    if found.between is not None:  # seeds never say more of a size's mean than the sizes do
        part = np.sqrt(np.minimum(1.0, whole * found.seeds / np.maximum(own, 1e-300)))[:, None]
    else:
        part = np.ones((replicates, 1))
    log_y = fitted + of_sizes[:, size] + part * of_runs[:, :runs]
    return Draws(refit(problem, solution, log_y), of_sizes[:, -1] + of_runs[:, -1])


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles that leave the same share out on both sides.

    Example:
        >>> [round(end) for end in interval(np.arange(1001.0))]
        [25, 975]
    """
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _variance(deviation: float | None, freedom: int, replicates: int, generator: np.random.Generator) -> Array:
    if deviation is None:
        return np.zeros(replicates)
    return np.asarray(deviation**2 * freedom / np.maximum(generator.chisquare(freedom, replicates), 1e-12))


def _errors(pool: Array, shape: tuple[int, int], generator: np.random.Generator) -> Array:
    if not len(pool):
        return np.zeros(shape)
    return np.asarray(generator.choice(pool, shape) * generator.choice([-1.0, 1.0], shape))


def _unit(values: Array) -> Array:
    size = float(np.sqrt((values**2).mean())) if len(values) else 0.0
    return values / size if size > 0 else values[:0]
