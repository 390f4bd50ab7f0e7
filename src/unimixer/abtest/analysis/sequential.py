"""Intervals and p-values that stay valid at every look, and the same for the split of the units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unimixer.errors import UnimixerError, check_positive

LEAST_UNITS = 100
"""Units that every arm needs before the first sequential reading: the guarantee is asymptotic."""
_SPLIT_CONCENTRATION = 10_000.0


@dataclass(frozen=True)
class Sequential:
    r"""The asymptotic confidence sequence with the boundary of a normal mixture.

    An estimate with standard error :math:`s_n` after :math:`n` units has the interval

    .. math::
        \hat\delta_n \pm s_n \sqrt{\frac{1 + n \rho^2}{n \rho^2} \log \frac{1 + n \rho^2}{\alpha^2}}

    and with probability :math:`1 - \alpha` all intervals over all :math:`n` hold the true effect together, as the
    number of units grows. Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences" (arXiv:2103.06476), Theorem 2.2; with a known variance it is the mixture
    sequential probability ratio test of Robbins (1970) and Johari et al. (arXiv:1512.04922).

    The tuning :math:`\rho^2 = (-2 \log \alpha + \log(-2 \log \alpha) + 1) / n^*` makes it narrowest at about
    :math:`n^*` units (equation 24 there). It is valid for every :math:`n^*` that is chosen before the data.

    Args:
        planned: number of units of both arms :math:`n^*` at which the interval is narrowest.
        level: error level :math:`\alpha` of the tuning.
    """

    planned: int
    level: float = 0.05

    def __post_init__(self) -> None:
        check_positive(planned=self.planned)
        if not 0 < self.level < 0.5:
            raise UnimixerError(f"alpha={self.level} must lie between 0 and 0.5")

    @property
    def tuning(self) -> float:
        r"""The value :math:`\rho^2`."""
        twice = -2 * math.log(self.level)
        return (twice + math.log(twice) + 1) / self.planned

    def multiplier(self, units: int, alpha: float | None = None, *, one_sided: bool = False) -> float:
        r"""Compute the half width of the interval in standard errors.

        A bound on one side alone has :math:`2 \log(1 + \sqrt{1 + n \rho^2} / 2 \alpha)` in place of the logarithm: it
        mixes over effects of one sign, and :math:`\Phi(x) \ge 1 - e^{-x^2 / 2}`.

        Example:
            >>> round(Sequential(planned=10_000).multiplier(10_000), 3)
            3.035
        """
        information = units * self.tuning
        level, grown = alpha or self.level, 1 + information
        logarithm = 2 * math.log(1 + math.sqrt(grown) / (2 * level)) if one_sided else math.log(grown / level**2)
        return math.sqrt(grown / information * logarithm)

    def p_value(self, statistic: float, units: int) -> float:
        """Compute the smallest level whose interval leaves out 0.

        Args:
            statistic: estimate divided by its standard error.
            units: of both arms.
        """
        information = units * self.tuning
        exponent = -(statistic**2) * information / (2 * (1 + information))
        return min(1.0, math.sqrt(1 + information) * math.exp(exponent))


def split_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    r"""Test a split of units against the configured shares, validly at every look.

    The evidence is the ratio of a Dirichlet-multinomial to the multinomial likelihood; one divided by it is a p-value
    at all times (Lindon and Malek, arXiv:2011.03567). The prior :math:`\mathrm{Dir}(10^4\, \theta_0)` around the
    configured shares looks for deviations of about a percent.

    Args:
        counts: units of every arm.
        shares: configured shares of the arms; they sum to 1.
    """
    prior = [_SPLIT_CONCENTRATION * share for share in shares]
    evidence = math.lgamma(sum(prior)) - math.lgamma(sum(prior) + sum(counts))
    for count, share, before in zip(counts, shares, prior, strict=True):
        evidence += math.lgamma(before + count) - math.lgamma(before) - count * math.log(share)
    return math.exp(min(0.0, -evidence))
