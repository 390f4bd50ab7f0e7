"""Test whether one model is better than another, with intervals over seeds and users and corrected p-values."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from unimixer.analysis.weighted_metrics import Counts, LabelledRows, Values, Weighted
from unimixer.errors import UnimixerError, check_positive, check_shape

LEVEL = 0.05
"""A difference is significant if the corrected p is below this; intervals cover one minus it."""
REPLICATES = 1_000
MOST_RUNS = 1_000
"""Runs above which a difference counts as out of reach."""
_BLOCK = 1 << 24
"""Number of multiplicities in memory at a time, one byte each."""
_GRID = np.arange(-40, 40, 0.04)
"""Points w of an integral over x = sinh(w), dense near zero and out to 1e17: one degree of freedom has heavy tails."""

Part = tuple[float, float]
"""A standard error and its degrees of freedom."""


class UserBootstrap:
    """Draws of as many users as there are, with replacement and with all rows of a drawn user.

    The draws depend on ``seed`` and the number of users alone, so every model and every seed of training is judged on
    the same resampled users, which is what makes differences between models sharp.

    Args:
        num_users: users of the test rows.
        replicates: how many draws.
        seed: of the draws.
    """

    def __init__(self, num_users: int, *, replicates: int = REPLICATES, seed: int = 0) -> None:
        check_positive(replicates=replicates - 1)
        self.num_users, self.replicates, self.seed = num_users, replicates, seed
        self._kept: list[Counts] | None = None

    def counts(self) -> Iterator[Counts]:
        """Yield how often each user was drawn, ``(replicates, users)``, in blocks of some replicates."""
        if self._kept is None:
            step = max(1, _BLOCK // self.num_users)
            starts = range(0, self.replicates, step)
            blocks = (self._block(start, min(start + step, self.replicates)) for start in starts)
            if len(starts) > 8:  # too much to keep: drawn again for every model
                yield from blocks
                return
            self._kept = list(blocks)
        yield from self._kept

    def values(self, rows: LabelledRows, metric: str, logits: Any) -> tuple[float, Values]:
        """Compute a metric on the rows themselves and on every draw ``(replicates,)``."""
        return self.values_of(rows.weighted(metric, logits))

    def values_of(self, weighted: Weighted) -> tuple[float, Values]:
        """Compute a prepared metric on the rows themselves and on every draw ``(replicates,)``."""
        once = np.ones((1, self.num_users), dtype=np.uint8)
        return float(weighted(once)[0]), np.concatenate(
            [weighted(part) for counts in self.counts() for part in _parts(counts)]
        )

    def _block(self, start: int, stop: int) -> Counts:
        counts = np.empty((stop - start, self.num_users), dtype=np.uint8)
        for number in range(start, stop):
            users = np.random.default_rng((self.seed, number)).integers(0, self.num_users, self.num_users)
            # a user is drawn 256 times in one of e^1000 worlds
            counts[number - start] = np.minimum(np.bincount(users, minlength=self.num_users), 255)
        return counts


def _parts(counts: Counts) -> list[Counts]:
    """Split a block into pieces that are small enough as 8-byte numbers."""
    step = max(1, _BLOCK // 8 // counts.shape[1])
    return [counts[start : start + step] for start in range(0, len(counts), step)]


@dataclass(frozen=True)
class Difference:
    """The metric of a model minus that of the base, with interval and p-value."""

    estimate: float
    low: float
    """Lower end of the interval, which covers the drawing of users alone if there is one seed."""
    high: float
    p: float | None
    """Two-sided p-value; None with one seed, because the variation over seeds is unknown."""
    seeds: int
    by_seed: tuple[float, ...]
    users_deviation: float
    """Standard error from the drawing of users."""
    seeds_deviation: float | None
    """Standard error from the seeds."""


def difference(
    model: Sequence[float] | NDArray[Any],
    base: Sequence[float] | NDArray[Any],
    model_draws: NDArray[Any],
    base_draws: NDArray[Any],
    *,
    num_users: int,
    level: float = LEVEL,
) -> Difference:
    r"""Compute the mean difference of a metric over paired seeds, with an interval over other users and other seeds.

    With :math:`d_s` the difference of seed :math:`s` on the test rows, and :math:`d_{s,r}` on draw :math:`r` of users:

    .. math::
        \bar d = \tfrac1S \sum_s d_s, \qquad
        e_U^2 = \mathrm{Var}_r\!\left(\tfrac1S \sum_s d_{s,r}\right), \qquad
        e_S^2 = \tfrac1S \mathrm{Var}_s(d_s)

    Interval and p are those of Behrens and Fisher (Fisher, 1935): the error of :math:`\bar d` is distributed as
    :math:`e_U T_{U-1} + e_S T_{S-1}`, two independent Student variables with as many degrees of freedom as there are
    users and seeds, less one. In simulations p is below a level at most as often as the level says, for any shares of
    the two errors; Satterthwaite's approximation has p < .01 in up to 3.5% of the cases with three seeds and 7% with
    two. What differs by seed and by user at once (another seed orders some user's list differently) is in both errors,
    so the interval errs on the wide side.

    Args:
        model: the metric by seed ``(S,)``.
        base: of the base, the same seeds in the same order.
        model_draws: the metric on draws of users ``(S, replicates)``.
        base_draws: of the base, the same draws.
        num_users: users that the metric is computed from.
        level: one minus the coverage.

    Example:
        >>> draws = np.random.default_rng(0).normal(0.70, 0.001, size=(1, 500))
        >>> found = difference([0.701, 0.702], [0.700, 0.700], np.repeat(draws, 2, 0), np.repeat(draws, 2, 0),
        ...                    num_users=100)
        >>> round(found.estimate, 6), found.seeds, round(found.p, 3)
        (0.0015, 2, 0.205)
    """
    values, others = np.asarray(model, dtype=np.float64), np.asarray(base, dtype=np.float64)
    draws, other_draws = np.asarray(model_draws, dtype=np.float64), np.asarray(base_draws, dtype=np.float64)
    check_shape("base", others, values.shape)
    check_shape("model_draws", draws, (len(values), None))
    check_shape("base_draws", other_draws, draws.shape)
    if not len(values):
        raise UnimixerError("no seeds: a difference needs scores of both models for at least one seed")
    if num_users < 2:
        raise UnimixerError(f"num_users={num_users}: a bootstrap over users needs at least 2; test on more rows")
    by_seed = values - others
    users = _variance((draws - other_draws).mean(axis=0))
    seeds = _variance(by_seed) / len(by_seed) if len(by_seed) > 1 else None
    estimate = float(by_seed.mean())
    parts = _parts_of(users**0.5, num_users, (seeds or 0.0) ** 0.5, len(by_seed))
    reach = half_width(level, *parts)
    return Difference(
        estimate=estimate,
        low=estimate - reach,
        high=estimate + reach,
        p=None if seeds is None else two_sided(estimate, *parts),
        seeds=len(by_seed),
        by_seed=tuple(map(float, by_seed)),
        users_deviation=users**0.5,
        seeds_deviation=None if seeds is None else seeds**0.5,
    )


def runs_needed(measured: Difference, *, num_users: int, level: float = LEVEL) -> int | None:
    r"""Compute how many seeds of each model would decide a difference of the measured size, on the same test rows.

    The smallest S from 2 on at which the p of :func:`difference` is at most the level for the measured mean and
    deviations. None where no number of seeds does, since the drawing of users alone hides a difference of this size,
    and with one seed, which says nothing about others.

    Args:
        measured: a difference over at least two seeds.
        num_users: users that the metric is computed from.
        level: the p-value to get below.
    """
    if measured.seeds_deviation is None:
        return None
    by_run = measured.seeds_deviation * measured.seeds**0.5

    def decided(runs: int) -> bool:
        parts = _parts_of(measured.users_deviation, num_users, by_run / runs**0.5, runs)
        return two_sided(measured.estimate, *parts) <= level

    return bisect_left(range(MOST_RUNS), True, lo=2, key=decided) if decided(MOST_RUNS) else None


def two_sided(estimate: float, first: Part, second: Part) -> float:
    r"""Compute the two-sided p of an estimate whose error is the sum of two independent, scaled Student variables.

    .. math:: p = P(|e_1 T_{\nu_1} + e_2 T_{\nu_2}| \ge |d|)

    Fisher (1935), "The fiducial argument in statistical inference". The integral is over the smaller part, with the
    tail of the larger one in closed form.

    Args:
        estimate: :math:`d`.
        first: :math:`(e_1, \nu_1)`.
        second: :math:`(e_2, \nu_2)`.

    Example:
        >>> round(two_sided(2.435 * 2**0.5, (1.0, 6), (1.0, 6)), 3)  # Fisher and Yates, Statistical Tables, VI
        0.05
    """
    (small, few), (large, many) = sorted((first, second))
    if math.isnan(small + large):
        return math.nan
    if large == 0:
        return 1.0 if estimate == 0 else 0.0
    if small == 0:
        return float(2 * special.stdtr(many, -abs(estimate) / large))
    x, weights = _student(few)
    return min(1.0, float(2 * weights @ special.stdtr(many, (small * x - abs(estimate)) / large)))


def half_width(level: float, first: Part, second: Part) -> float:
    """Compute the reach of an interval to each side: the estimate whose :func:`two_sided` p is the level.

    Example:
        >>> round(half_width(0.05, (1.0, 1), (2.0, 1)), 2)  # the sum of two Cauchy variables is one, with width 3
        38.12
    """
    scale = first[0] + second[0]
    if not scale > 0:  # no spread at all, or none that is known
        return scale
    widest = sum(error * float(stats.t.isf(level / 4, freedom)) for error, freedom in (first, second)) / scale
    return scale * float(optimize.brentq(lambda at: two_sided(at * scale, first, second) - level, 0, widest))


def holm(values: Sequence[float]) -> list[float]:
    r"""Correct p-values for their number, so that the chance of any false conclusion stays below the level.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\bigl(1, (m - j + 1)\, p_{(j)}\bigr)

    Holm (1979). No assumption is made on how the comparisons depend on each other.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def holm_where_known(values: Sequence[float | None]) -> list[float | None]:
    """Correct the p-values that there are by :func:`holm`; comparisons without one do not count.

    Example:
        >>> holm_where_known([0.01, None, 0.03])
        [0.02, None, 0.03]
    """
    corrected = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(corrected) for value in values]


def _variance(values: NDArray[np.float64]) -> float:
    """Compute the variance with one degree of freedom less, without the draws that have one class only."""
    known = values[~np.isnan(values)]
    return float(known.var(ddof=1)) if len(known) > 1 else float("nan")


@lru_cache(maxsize=64)
def _student(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights of an integral over Student's t distribution."""
    x = np.sinh(_GRID)
    return x, stats.t.pdf(x, freedom) * np.cosh(_GRID) * (_GRID[1] - _GRID[0])


def _parts_of(users: float, num_users: int, seeds: float, num_seeds: int) -> tuple[Part, Part]:
    return (users, num_users - 1), (seeds, max(num_seeds - 1, 1))
