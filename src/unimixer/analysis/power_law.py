"""Fit one law of one model: a gain that grows as a power of the size, or an error that falls to a floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from unimixer.analysis.bootstrap import (
    BootstrapDraws,
    BootstrapOptions,
    VarianceComponents,
    bootstrap,
    interval,
    variance_components,
)
from unimixer.analysis.curve_fit import Array, Problem, evaluate, fit
from unimixer.errors import UnimixerError, check_choice

GAIN, ERROR = "gain", "error"
FORMS = (GAIN, ERROR)
LARGEST_EXPONENT = 4.0
SMALLEST_EXPONENT = 1e-3
"""Lower bound with a fitted floor: an exponent of zero looks like a higher floor."""
BENT = 0.01
"""P-value of a bend below which there is a warning."""
SHORT_RANGE = 8.0
"""Sizes that span less than this factor say little about an exponent."""


@dataclass(frozen=True)
class IrreducibleError:
    """Bounds of the irreducible error c: known if both are equal, else fitted between them.

    Example:
        >>> IrreducibleError.known(0.2).fitted, IrreducibleError().fitted
        (False, True)
    """

    low: float = 0.0
    high: float = float("inf")

    @classmethod
    def known(cls, value: float) -> IrreducibleError:
        """Make the bounds of a known value."""
        return cls(value, value)

    @property
    def fitted(self) -> bool:
        """Whether the fit estimates the value."""
        return self.high > self.low


@dataclass(frozen=True)
class Law:
    r"""A fitted law, :math:`y = a N^b` or :math:`y = c + a N^{-b}`, with its intervals.

    Args:
        form: ``gain`` or ``error``.
        theta: logarithm of the coefficient at the center, signed exponent, floor.
        center: mean logarithm of the sizes.
        irreducible_error: bounds of c in the fit.
        x: sizes of the runs ``(n,)``.
        residuals: of the logarithms ``(n,)``.
        scale: their robust standard deviation.
        r2: share of the variance of the logarithms that the law explains; ``None`` where sizes are as many as
            coefficients, so that any law fits.
        variance: random variation of the residuals.
        draws: of the bootstrap; ``None`` where nothing can be drawn.
        warnings: what a reader has to know before using it.
    """

    form: str
    theta: Array
    center: float
    irreducible_error: IrreducibleError
    x: Array
    residuals: Array
    scale: float
    r2: float | None
    variance: VarianceComponents
    draws: BootstrapDraws | None
    warnings: tuple[str, ...] = field(default=())

    @property
    def sign(self) -> float:
        """Sign of the exponent in the fit: errors fall."""
        return 1.0 if self.form == GAIN else -1.0

    @property
    def b(self) -> float:
        """The exponent, positive if larger models are better."""
        return float(self.sign * self.theta[1])

    @property
    def c(self) -> float:
        """The irreducible error."""
        return float(self.theta[2])

    def a(self, unit: float = 1.0) -> float:
        """Return the coefficient, with sizes counted in ``unit``."""
        return float(np.exp(self.theta[0] + self.theta[1] * (np.log(unit) - self.center)))

    @property
    def b_draws(self) -> Array | None:
        """Exponents of the draws."""
        return None if self.draws is None else self.sign * self.draws.theta[:, 1]

    @property
    def b_interval(self) -> tuple[float, float] | None:
        """Interval of the exponent."""
        return None if self.b_draws is None else interval(self.b_draws)

    @property
    def c_interval(self) -> tuple[float, float] | None:
        """Interval of the irreducible error, if it was fitted."""
        return interval(self.draws.theta[:, 2]) if self.draws is not None and self.irreducible_error.fitted else None

    def a_interval(self, unit: float = 1.0) -> tuple[float, float] | None:
        """Return the interval of the coefficient."""
        if self.draws is None:
            return None
        theta = self.draws.theta
        return interval(np.exp(np.clip(theta[:, 0] + theta[:, 1] * (np.log(unit) - self.center), -300, 300)))

    @property
    def span(self) -> float:
        """Largest size over smallest."""
        return float(self.x.max() / self.x.min())

    def at(self, sizes: ArrayLike) -> Array:
        """Evaluate the law at sizes."""
        return np.asarray(np.exp(evaluate(self.theta[None], self._centered(sizes))[0]))

    def band(self, sizes: ArrayLike) -> tuple[Array, Array] | None:
        """Return the interval of the law itself at sizes, low and high."""
        return None if self.draws is None else self._percentiles(sizes, np.zeros(1))

    def prediction(self, sizes: ArrayLike) -> tuple[Array, Array] | None:
        """Return the interval of one new run of these sizes: the law's, and the noise of a size and a run."""
        return None if self.draws is None else self._percentiles(sizes, self.draws.errors)

    def _percentiles(self, sizes: ArrayLike, errors: Array) -> tuple[Array, Array]:
        assert self.draws is not None
        logs = evaluate(self.draws.theta, self._centered(sizes)) + errors[:, None]
        ends = [interval(column) for column in logs.T]
        return np.exp([low for low, _ in ends]), np.exp([high for _, high in ends])

    def _centered(self, sizes: ArrayLike) -> Array:
        return np.log(np.atleast_1d(np.asarray(sizes, dtype=np.float64)))[None] - self.center


def needed_sizes(form: str, bounds: IrreducibleError) -> int:
    """Return the number of different sizes that a fit needs: the number of its coefficients."""
    return 3 if form == ERROR and bounds.fitted else 2


def fit_law(
    x: ArrayLike,
    y: ArrayLike,
    *,
    form: str = GAIN,
    irreducible_error: IrreducibleError | None = None,
    size: Sequence[int] | NDArray[np.int64] | None = None,
    options: BootstrapOptions | None = None,
) -> Law:
    r"""Fit one law to runs of one model.

    .. math::
        \text{gain: } \Delta\mathrm{AUC} = a N^{b} \qquad\qquad \text{error: } y = c + a N^{-b}

    The first is UniMixer's (arXiv:2604.00590), the second that of scaling laws with an irreducible part. Residuals are
    of logarithms, the loss is Huber's (:func:`~unimixer.analysis.curve_fit.fit`), intervals are from a bootstrap in two
    steps, sizes and seeds (:func:`~unimixer.analysis.bootstrap.bootstrap`).

    Args:
        x: sizes of the runs.
        y: their metric, above 0.
        form: ``gain`` or ``error``.
        irreducible_error: bounds of c in the error form (default: fitted between 0 and the smallest error).
        size: which runs are of one size, counted from 0 (default: those of equal ``x``).
        options: draws of the bootstrap.

    Example:
        >>> sizes = [1e6, 4e6, 16e6, 64e6]
        >>> law = fit_law(sizes, [0.3 + 2 * n**-0.25 for n in sizes], form="error", options=BootstrapOptions(50))
        >>> round(law.b, 3), round(law.c, 3), round(law.a(), 2)
        (0.25, 0.3, 2.0)
    """
    check_choice("form", form, FORMS)
    sizes, metric = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    bounds = IrreducibleError.known(0.0) if form == GAIN else irreducible_error or IrreducibleError()
    groups = np.unique(sizes, return_inverse=True)[1] if size is None else np.asarray(size)
    _check(sizes, metric, form, bounds, len(np.unique(groups)))
    center = float(np.log(sizes).mean())
    problem = _problem(np.log(sizes) - center, np.log(metric), form, bounds)
    solution = fit(problem)
    draws = bootstrap(problem, solution, groups, options or BootstrapOptions())
    components = variance_components(solution.residuals, groups, problem.free)
    exact = components.sizes <= 0 and components.runs <= 0
    variance = float(((problem.log_y - problem.log_y.mean()) ** 2).sum())
    r2 = None if components.sizes <= 0 or variance == 0 else 1 - float((solution.residuals**2).sum()) / variance
    law = Law(form, solution.theta, center, bounds, sizes, solution.residuals, solution.scale, r2, components, draws)
    return Law(**{**vars(law), "warnings": tuple(_warnings(law, exact))})


def _problem(x: Array, log_y: Array, form: str, bounds: IrreducibleError) -> Problem:
    least = SMALLEST_EXPONENT if bounds.fitted else -LARGEST_EXPONENT
    flat, steep = (least, LARGEST_EXPONENT) if form == GAIN else (-LARGEST_EXPONENT, -least)
    lower = np.array([log_y.min() - 15, flat, bounds.low])
    upper = np.array([log_y.max() + 5, steep, bounds.high])
    return Problem(x[None], log_y, lower, upper, ((0.1,),) if form == GAIN else ((-0.05,), (-0.3,), (-1.0,)))


def _check(x: Array, y: Array, form: str, bounds: IrreducibleError, different: int) -> None:
    if not (x > 0).all() or not np.isfinite(x).all():
        raise UnimixerError("sizes must be finite and greater than 0: the fit takes their logarithm")
    if not (y > 0).all() or not np.isfinite(y).all():
        raise UnimixerError(f"the {form} must be finite and greater than 0 in every run: the fit takes its logarithm")
    if different < needed_sizes(form, bounds):
        way = "; a floor that is given needs 2" if form == ERROR and bounds.fitted else ""
        raise UnimixerError(
            f"{different} different size{'s' if different != 1 else ''}: "
            f"{needed_sizes(form, bounds)} are needed for {needed_sizes(form, bounds)} coefficients{way}"
        )
    if bounds.low >= y.min():
        raise UnimixerError(
            f"floor={bounds.low:g} must lie below every error, and the smallest is {y.min():g}; "
            "lower the floor (raise the best reachable AUC), or let it be fitted"
        )


def _bend(x: Array, residuals: Array, freedom: int) -> float | None:
    """Test the mean residuals of the sizes for a square of the logarithm of the size; None for too few sizes."""
    if freedom < 2:
        return None
    sizes, size = np.unique(x, return_inverse=True)
    means, logs = np.bincount(size, residuals) / np.bincount(size), np.log(sizes)
    square = np.linalg.qr(np.vander(logs - logs.mean(), 3, increasing=True))[0][:, 2]
    explained, whole = float(square @ means) ** 2, float(means @ means)
    if whole < 1e-12:
        return None
    rest = max(whole - explained, 1e-15 * whole)
    return float(stats.f.sf(explained * (freedom - 1) / rest, 1, freedom - 1))


def _warnings(law: Law, exact: bool) -> list[str]:
    warnings = []
    if law.span < SHORT_RANGE:
        warnings.append(
            f"sizes span a factor of {law.span:.1f} only; below {SHORT_RANGE:g} an exponent says little, "
            "and an extrapolation nothing"
        )
    if exact:
        warnings.append("as many sizes as coefficients: any law fits, so there is no interval and no goodness of fit")
    elif law.variance.sizes <= 0:
        warnings.append("as many sizes as coefficients: the interval knows the noise of seeds, not that of sizes")
    elif law.variance.sizes == 1:
        warnings.append("one size more than coefficients: intervals are very wide; add sizes")
    if law.b_interval is not None and law.b_interval[0] <= SMALLEST_EXPONENT * 2:
        warnings.append("the interval of the exponent reaches 0: from these runs no gain with size can be claimed")
    bent = _bend(law.x, law.residuals, law.variance.sizes)
    if bent is not None and bent < BENT:
        warnings.append(
            f"the residuals bend with the size (p {bent:.2g}), so the law is not quite of this form: do not "
            "extrapolate, and look at the floor, the recipe of the largest and smallest models, or another kind of size"
        )
    if law.irreducible_error.fitted:
        top = min(law.irreducible_error.high, float(np.exp(np.log(law.at(law.x)) + law.residuals).min()))
        if law.c <= law.irreducible_error.low + 1e-6 * top or law.c >= top * (1 - 1e-4):
            warnings.append(
                f"the fitted floor lies at the end of what is allowed ({law.c:.4g}): these sizes do not show it; "
                "give the best reachable AUC or a floor"
            )
    return warnings
