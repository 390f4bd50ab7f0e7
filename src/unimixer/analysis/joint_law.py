"""Fit one law over parameters and training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from unimixer.analysis.bootstrap import BootstrapDraws, BootstrapOptions, bootstrap, interval
from unimixer.analysis.curve_fit import Array, Problem, evaluate, fit
from unimixer.analysis.power_law import (
    BENT,
    ERROR,
    LARGEST_EXPONENT,
    SMALLEST_EXPONENT,
    IrreducibleError,
    Law,
    fit_law,
)
from unimixer.errors import UnimixerError

SHORT_RANGE = 4.0
"""Factor between the smallest and the largest size, or number of rows, below which the two terms look alike."""
LARGE_MISFIT = 0.01
"""Share of the error that pairs of size and rows may miss the law by, however little seeds scatter."""
NEEDED = 3
"""Number of different sizes, and of different numbers of rows, that a fit needs."""


@dataclass(frozen=True)
class JointLaw:
    r"""A fitted :math:`L = c + a N^{-b} + d D^{-e}` with its intervals; see :class:`~.power_law.Law` for the fields.

    ``by_rows`` has the law over the parameters alone at each number of rows with at least three sizes. A sum of two
    terms cannot describe size that pays on long logs alone; these laws can.
    """

    theta: Array
    center: tuple[float, float]
    irreducible_error: IrreducibleError
    residuals: Array
    r2: float | None
    draws: BootstrapDraws | None
    by_rows: Mapping[float, Law] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def b(self) -> float:
        """Exponent of the parameters."""
        return float(-self.theta[1])

    @property
    def e(self) -> float:
        """Exponent of the rows."""
        return float(-self.theta[3])

    @property
    def c(self) -> float:
        """The floor."""
        return float(self.theta[4])

    def a(self, unit: float = 1.0) -> float:
        """Return the coefficient of the parameters, counted in ``unit``."""
        return float(np.exp(self.theta[0] + self.theta[1] * (np.log(unit) - self.center[0])))

    def d(self, unit: float = 1.0) -> float:
        """Return the coefficient of the rows, counted in ``unit``."""
        return float(np.exp(self.theta[2] + self.theta[3] * (np.log(unit) - self.center[1])))

    @property
    def intervals(self) -> dict[str, tuple[float, float]] | None:
        """Intervals of ``b``, ``e`` and ``c``."""
        if self.draws is None:
            return None
        theta = self.draws.theta
        return {"b": interval(-theta[:, 1]), "e": interval(-theta[:, 3]), "c": interval(theta[:, 4])}

    def at(self, params: ArrayLike, rows: ArrayLike) -> Array:
        """Evaluate the law at sizes and rows of equal length."""
        return np.asarray(np.exp(evaluate(self.theta[None], self._centered(params, rows))[0]))

    def shares(self, params: float, rows: float) -> tuple[float, float]:
        """Return the shares of the reducible error that come from too few parameters and from too few rows."""
        x = self._centered(params, rows)[:, 0]
        parts = np.exp(self.theta[[0, 2]] + self.theta[[1, 3]] * x)
        return float(parts[0] / parts.sum()), float(parts[1] / parts.sum())

    def _centered(self, params: ArrayLike, rows: ArrayLike) -> Array:
        values = [np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in (params, rows)]
        return np.asarray(np.log(np.stack(values)) - np.array(self.center)[:, None])


def fit_joint(
    params: ArrayLike,
    rows: ArrayLike,
    error: ArrayLike,
    *,
    irreducible_error: IrreducibleError | None = None,
    options: BootstrapOptions | None = None,
) -> JointLaw:
    r"""Fit :math:`L(N, D) = c + a N^{-b} + d D^{-e}` (Hoffmann et al., arXiv:2203.15556) to runs of one model.

    Loss, starts and intervals are those of :func:`~unimixer.analysis.power_law.fit_law`; a size is a pair of
    parameters and rows.

    Args:
        params: dense parameters of the runs.
        rows: training samples of the runs.
        error: above 0, falling with both.
        irreducible_error: bounds of c (default: fitted).
        options: draws of the bootstrap.

    Example:
        >>> n, d = np.meshgrid([1e6, 4e6, 16e6, 64e6], [1e6, 1e7, 1e8])
        >>> law = fit_joint(n.ravel(), d.ravel(), (0.2 + n**-0.25 + 3 * d**-0.3).ravel(), options=BootstrapOptions(20))
        >>> round(law.b, 2), round(law.e, 2), round(law.c, 2)
        (0.25, 0.3, 0.2)
    """
    x = np.stack([np.asarray(params, dtype=np.float64), np.asarray(rows, dtype=np.float64)])
    y, bounds = np.asarray(error, dtype=np.float64), irreducible_error or IrreducibleError()
    pairs, size = np.unique(x, axis=1, return_inverse=True)
    _check(x, y, bounds, pairs.shape[1])
    center = np.log(x).mean(axis=1)
    problem = _problem(np.log(x) - center[:, None], np.log(y), bounds)
    solution = fit(problem)
    options = options or BootstrapOptions()
    draws = bootstrap(problem, solution, size.ravel(), options)
    variance = float(((problem.log_y - problem.log_y.mean()) ** 2).sum())
    exact = pairs.shape[1] <= problem.free or variance == 0
    r2 = None if exact else 1 - float((solution.residuals**2).sum()) / variance
    by_rows = {}
    for count in np.unique(x[1]):
        at = x[1] == count
        if len(np.unique(x[0, at])) >= NEEDED:
            by_rows[float(count)] = fit_law(x[0, at], y[at], form=ERROR, irreducible_error=bounds, options=options)
    law = JointLaw(solution.theta, (float(center[0]), float(center[1])), bounds, solution.residuals, r2, draws, by_rows)
    misfit = _misfit(solution.residuals, size.ravel().astype(np.int64), pairs.shape[1] - problem.free)
    return replace(law, warnings=tuple(_warnings(law, x, y, misfit)))


def _misfit(residuals: Array, pair: NDArray[np.int64], freedom: int) -> tuple[float, float, float] | None:
    """Test the pairs of size and rows for lack of fit, against the scatter of their seeds (F test).

    Returns:
        The root mean square by which pairs miss the law, that by which seeds scatter, and p; None without seeds.
    """
    counts = np.bincount(pair)
    means = np.bincount(pair, residuals) / counts
    lack, pure = float(counts @ means**2), float(((residuals - means[pair]) ** 2).sum())
    seeds = len(residuals) - len(counts)
    if freedom < 1 or seeds < 1 or pure <= 0:
        return None
    p = float(stats.f.sf(lack / freedom / (pure / seeds), freedom, seeds))
    return float(np.sqrt(lack / len(residuals))), float(np.sqrt(pure / seeds)), p


def _problem(x: Array, log_y: Array, bounds: IrreducibleError) -> Problem:
    bottom, top = float(log_y.min()) - 15, float(log_y.max()) + 5
    lower = np.array([bottom, -LARGEST_EXPONENT, bottom, -LARGEST_EXPONENT, bounds.low])
    upper = np.array([top, -SMALLEST_EXPONENT, top, -SMALLEST_EXPONENT, bounds.high])
    slopes = tuple((-one, -two) for one in (0.1, 0.3, 0.8) for two in (0.1, 0.3, 0.8))
    return Problem(x, log_y, lower, upper, slopes)


def _check(x: Array, y: Array, bounds: IrreducibleError, pairs: int) -> None:
    if not ((x > 0).all() and (y > 0).all() and np.isfinite(x).all() and np.isfinite(y).all()):
        raise UnimixerError("a joint fit needs parameters, rows and errors that are finite and above 0")
    for name, values in (("sizes", x[0]), ("numbers of training rows", x[1])):
        different = len(np.unique(values))
        if different < NEEDED:
            raise UnimixerError(
                f"a joint fit needs {NEEDED} different {name}, and there "
                f"{'is' if different == 1 else 'are'} {different}; vary them in the sweep"
            )
    needed = 5 if bounds.fitted else 4
    if pairs < needed:
        raise UnimixerError(f"a joint fit has {needed} coefficients, and there are {pairs} pairs of size and rows")
    if bounds.low >= y.min():
        raise UnimixerError(f"floor={bounds.low:g} must lie below every error, and the smallest is {y.min():g}")


def _warnings(law: JointLaw, x: Array, y: Array, misfit: tuple[float, float, float] | None) -> list[str]:
    warnings = []
    for name, values in (("sizes", x[0]), ("training rows", x[1])):
        span = values.max() / values.min()
        if span < SHORT_RANGE:
            warnings.append(f"{name} span a factor of {span:.1f} only; below {SHORT_RANGE:g} their term says little")
    for name, letter in (("parameters", "b"), ("rows", "e")):
        if law.intervals is not None and law.intervals[letter][0] <= 2 * SMALLEST_EXPONENT:
            warnings.append(f"the interval of the exponent of the {name} ({letter}) reaches 0")
        if law.intervals is not None and law.intervals[letter][1] >= 0.99 * LARGEST_EXPONENT:
            warnings.append(
                f"the interval of the exponent of the {name} ({letter}) ends at the largest that is allowed, "
                f"{LARGEST_EXPONENT:g}: these runs do not bound it"
            )
    if misfit is not None and misfit[0] > LARGE_MISFIT and misfit[2] < BENT:
        warnings.append(
            f"pairs of size and rows miss the law by {misfit[0]:.1%} where seeds scatter by {misfit[1]:.1%} "
            f"(p {misfit[2]:.2g}): parameters and rows do not act as a sum here, so do not extrapolate, and take the "
            "exponents at each number of rows"
        )
    if law.draws is None:
        warnings.append("as many pairs as coefficients: any law fits, so there is no interval and no goodness of fit")
    if law.irreducible_error.fitted and not 1e-6 * y.min() < law.c < (1 - 1e-4) * y.min():
        warnings.append(
            f"the fitted floor lies at the end of what is allowed ({law.c:.4g}); give the best reachable AUC"
        )
    return warnings
