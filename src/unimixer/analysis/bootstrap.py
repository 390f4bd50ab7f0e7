"""Intervals of a fit by a bootstrap over sizes and, within them, over seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.curve_fit import Array, Problem, Solution, refit

LEVEL = 0.95
"""Coverage of every interval."""
REPLICATES = 2_000
_LARGEST = 5.0
"""Bound of a drawn error of a logarithm: with one degree of freedom it is unbounded, and its powers overflow."""


@dataclass(frozen=True)
class BootstrapOptions:
    """Number of draws of a bootstrap, and their generator (default: a new one with seed 0)."""

    replicates: int = REPLICATES
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@dataclass(frozen=True)
class VarianceComponents:
    """The random variation of the residuals of a fit, between sizes and between the runs of a size.

    Args:
        between: standard deviation of a size's mean residual, ``None`` without more sizes than coefficients.
        within: standard deviation of a run around its size, ``None`` if every size has one run.
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
        """Whether the residuals allow an interval."""
        return self.between is not None or self.within is not None


@dataclass(frozen=True)
class BootstrapDraws:
    """Coefficients of the refitted draws ``(R, p)``, and errors of one new run of a new size ``(R,)``."""

    theta: Array
    errors: Array


def variance_components(residuals: Array, size: NDArray[np.int64], free: int) -> VarianceComponents:
    r"""Split the residuals of the logarithms into the part that runs of one size share and the rest.

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
    return VarianceComponents(
        between, within, sizes, runs, len(counts) / float((1 / counts).sum()), _unit(means), _unit(spread)
    )


def bootstrap(
    problem: Problem, solution: Solution, size: NDArray[np.int64], options: BootstrapOptions
) -> BootstrapDraws | None:
    r"""Refit many drawn sets of metrics: the fitted values with drawn errors of sizes and of runs.

    The sizes stay as planned: drawing sizes themselves would leave one draw in ten of five sizes with two
    different ones or fewer. The errors are drawn with replacement and random sign, in two steps: one of the sizes' mean
    residuals for each size, then one of the runs' deviations for each run. The variance of a size's
    mean is :math:`S_b^2`, and the part of it that seeds explain comes from the second step. Each draw first draws how
    large the noise is, :math:`S^2 \nu / \chi^2_\nu`, so that few sizes give the wide intervals of Student's t and not
    those of a normal law. Without more sizes than coefficients only :math:`S_w^2` is known.

    Returns:
        ``None`` if there are as many coefficients as sizes and one run each: then all residuals are 0.
    """
    variance = variance_components(solution.residuals, size, problem.free)
    if not variance.known:
        return None
    replicates, generator = options.replicates, options.generator
    sizes, runs = int(size.max()) + 1, len(size)
    own = _variance(variance.within, variance.runs, replicates, generator)
    whole = _variance(variance.between, variance.sizes, replicates, generator)
    level, shared = np.sqrt(own)[:, None], np.sqrt(np.maximum(whole - own / variance.seeds, 0.0))[:, None]
    of_sizes = np.clip(shared * _errors(variance.means, (replicates, sizes + 1), generator), -_LARGEST, _LARGEST)
    of_runs = np.clip(level * _errors(variance.deviations, (replicates, runs + 1), generator), -_LARGEST, _LARGEST)
    fitted = problem.log_y - solution.residuals
    if variance.between is not None:  # seeds never say more of a size's mean than the sizes do
        part = np.sqrt(np.minimum(1.0, whole * variance.seeds / np.maximum(own, 1e-300)))[:, None]
    else:
        part = np.ones((replicates, 1))
    log_y = fitted + of_sizes[:, size] + part * of_runs[:, :runs]
    return BootstrapDraws(refit(problem, solution, log_y), of_sizes[:, -1] + of_runs[:, -1])


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Compute the percentiles that leave the same share out on both sides.

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
