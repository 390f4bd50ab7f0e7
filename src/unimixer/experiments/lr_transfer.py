r"""Learning rates across sizes: searched where models are small, carried over by a rule, and the rule put to the test.

The rule is :math:`\eta(w) = \eta_0\, (w / w_0)^{-p}`, with w the dial of a model (its width as a real number; widths
that are whole numbers jump, the dial does not), :math:`\eta_0` the best rate at the smallest size :math:`w_0`, and p:

- ``lr_search="smallest"``: given, 0.5 unless it is told otherwise. Between no change (p = 0) and what keeps Adam's
  change of a layer's output the same at any width (p = 1, arXiv:2203.03466), which holds for hidden matrices but
  neither for norms, biases and embeddings nor for towers, all of which have the same rate here.
- ``lr_search="two"``: from the best rates at two sizes, a straight line in logarithms, p kept between 0 and 1.

Depth changes no rate. Rates of embedding tables stay as they are: tables do not grow with the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimixer.errors import UnimixerError, check_positive

POWER = 0.5
POWERS = (0.0, 0.5, 1.0)
"""Rules that the experiment compares."""
DIGITS = 3
"""Of a transferred rate: it is part of a row's name."""


@dataclass(frozen=True)
class Transfer:
    """The rule with its numbers.

    Args:
        rate: best rate at ``width``.
        width: the dial of the smallest size.
        power: p.
        at_edge: whether the best rate was the smallest or the largest of the grid.

    Example:
        >>> Transfer(rate=2e-3, width=32.0, power=0.5).at(128.0)
        0.001
    """

    rate: float
    width: float
    power: float = POWER
    at_edge: bool = False

    def at(self, width: float) -> float:
        """The rate at another size."""
        check_positive(width=width)
        return rounded(self.rate * (width / self.width) ** -self.power)


def rounded(rate: float, digits: int = DIGITS) -> float:
    """A rate with few digits.

    Example:
        >>> rounded(0.00123456)
        0.00123
    """
    return float(f"{rate:.{digits}g}")


def best_rate(metrics: Mapping[float, float]) -> tuple[float, bool]:
    r"""The best rate between those of a grid, and whether it is the end of the grid.

    The top of the parabola through the best rate of the grid and its two neighbours, over the logarithm of the rate,
    and never beyond the neighbours; at an end of the grid that end itself.

    Args:
        metrics: by rate; the larger the better.

    Example:
        >>> best_rate({1e-3: 0.70, 2e-3: 0.72, 4e-3: 0.70})
        (0.002, False)
        >>> best_rate({1e-3: 0.70, 2e-3: 0.72})
        (0.002, True)
    """
    if not metrics:
        raise UnimixerError("no rate has a metric: every run of the search failed")
    rates = sorted(metrics)
    place = max(range(len(rates)), key=lambda index: metrics[rates[index]])
    if len(rates) == 1:
        return rates[0], False
    if place in (0, len(rates) - 1):
        return rates[place], True
    near = [(math.log(rates[index]), metrics[rates[index]]) for index in (place - 1, place, place + 1)]
    top = _top(near)
    return rounded(math.exp(min(max(top, near[0][0]), near[2][0]))), False


def _top(points: Sequence[tuple[float, float]]) -> float:
    """Where the parabola through three points, the middle one the highest, is largest."""
    (a, fa), (b, fb), (c, fc) = points
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    return b if left == right else b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)


def power_between(first: tuple[float, float], second: tuple[float, float]) -> float:
    """The power of the rule through two sizes, each a width and its best rate, kept between 0 and 1.

    Example:
        >>> power_between((32.0, 2e-3), (128.0, 1e-3))
        0.5
        >>> power_between((32.0, 1e-3), (128.0, 2e-3))
        0.0
    """
    (width, rate), (wider, other) = first, second
    check_positive(width=width, rate=rate, wider=wider, other=other)
    if width == wider:
        raise UnimixerError(f"two sizes of one width, {width:g}, say nothing about how rates follow it")
    return min(max(-math.log(other / rate) / math.log(wider / width), 0.0), 1.0)


@dataclass(frozen=True)
class Trial:
    """A grid of rates at one size of one model.

    Args:
        model: its name.
        params: dense parameters.
        width: the dial.
        metrics: on validation, by rate.
    """

    model: str
    params: int
    width: float
    metrics: Mapping[float, float]

    def at(self, rate: float) -> float | None:
        """The metric at any rate inside the grid, between its points a parabola; None outside."""
        rates = np.log(sorted(self.metrics))
        values = np.array([self.metrics[rate] for rate in sorted(self.metrics)])
        place = math.log(rate)
        if not rates[0] - 1e-9 <= place <= rates[-1] + 1e-9 or len(rates) < 3:
            return None
        start = int(np.clip(np.searchsorted(rates, place) - 1, 0, len(rates) - 3))
        if start + 3 < len(rates) and abs(place - rates[start + 2]) < abs(place - rates[start]):
            start = min(start + (place > rates[start + 1] + 1e-9), len(rates) - 3)
        near = slice(start, start + 3)
        return float(np.polyval(np.polyfit(rates[near], values[near], 2), place))


def losses(trials: Sequence[Trial], powers: Sequence[float] = POWERS) -> list[dict[str, float | int | str | None]]:
    """What a rule costs: at every size but the smallest, the metric at its own best rate less that at the rule's.

    Args:
        trials: grids of one or more models at two or more sizes.
        powers: rules to compare.

    Returns:
        A line a size: the best rate, the power that would have led to it, and for each rule its rate and its loss,
        None where the rule leads out of the grid.
    """
    lines: list[dict[str, float | int | str | None]] = []
    for model in dict.fromkeys(trial.model for trial in trials):
        first, *others = sorted((trial for trial in trials if trial.model == model), key=lambda trial: trial.params)
        base, base_edge = best_rate(first.metrics)
        for trial in others:
            best, edge = best_rate(trial.metrics)
            line: dict[str, float | int | str | None] = {
                "model": model,
                "parameters": trial.params,
                "width": round(trial.width, 1),
                "best rate": best,
                "at the grid's end": "yes" if edge or base_edge else "no",
                "power": round(-math.log(best / base) / math.log(trial.width / first.width), 2),
            }
            top = max(max(trial.metrics.values()), trial.at(best) or 0.0)
            for power in powers:
                there = Transfer(base, first.width, power).at(trial.width)
                found = trial.at(there)
                line[f"rate at p={power:g}"] = there
                line[f"loss at p={power:g}"] = None if found is None else round(max(top - found, 0.0), 6)
            lines.append(line)
    return lines
