"""Exponents of two models compared: whose gain grows faster, and is that more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from unimixer.analysis.bootstrap import LEVEL, interval
from unimixer.analysis.curve_fit import Array
from unimixer.analysis.power_law import Law
from unimixer.analysis.significance import holm

STEEPER, FLATTER, NOT_TOLD = "steeper", "flatter", "not told apart"


@dataclass(frozen=True)
class Pair:
    """The exponent of a model less that of another, with interval, p, and p corrected for all pairs.

    Where one of the two has no interval, neither has the difference.
    """

    model: str
    other: str
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """A word only where the corrected p is below 0.05."""
        if self.holm is None or self.holm >= 1 - LEVEL:
            return NOT_TOLD
        return STEEPER if self.difference > 0 else FLATTER


def compare_exponents(laws: Mapping[str, Law]) -> list[Pair]:
    r"""Every pair of models, corrected together after Holm (1979).

    The test is the bootstrap's: with :math:`d_r = b_{1,r} - b_{2,r}` the difference of the exponents on draw :math:`r`,
    the two models drawn on their own,

    .. math:: p = 2 \min\Bigl(\frac{1 + \#\{d_r \le 0\}}{R + 1}, \frac{1 + \#\{d_r \ge 0\}}{R + 1}\Bigr),

    the level at which the percentile interval would just reach 0. Draws carry the tails of Student's t, so few sizes
    give large p. The smallest p that ``R`` draws can show is :math:`2 / (R + 1)`.
    """
    pairs = [_pair(one, laws[one], two, laws[two]) for one, two in combinations(laws, 2)]
    tested = [place for place, pair in enumerate(pairs) if pair.p is not None]
    corrected = holm([p for place in tested if (p := pairs[place].p) is not None])
    for place, value in zip(tested, corrected, strict=True):
        pairs[place] = replace(pairs[place], holm=value)
    return pairs


def p_value(draws: Array) -> float:
    """Two-sided: how often differences lie on the rarer side of 0.

    Example:
        >>> import numpy as np
        >>> round(p_value(np.linspace(-1.0, 9.0, 999)), 3)
        0.202
    """
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(draws) + 1)))


def _pair(one: str, law: Law, two: str, other: Law) -> Pair:
    pair = Pair(one, two, law.b - other.b)
    if law.b_draws is None or other.b_draws is None:
        return pair
    count = min(len(law.b_draws), len(other.b_draws))
    draws = law.b_draws[:count] - other.b_draws[:count]
    low, high = interval(draws)
    return replace(pair, low=low, high=high, p=p_value(draws))
