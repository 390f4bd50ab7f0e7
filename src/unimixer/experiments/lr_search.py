r"""Choose learning rates on validation: the best of a grid, or a rule that carries the best rate to other sizes.

The rule is :math:`\eta(w) = \eta_0\, (w / w_0)^{-p}`. w is the width of a model as the real number that meets its
budget, :math:`\eta_0` the best rate at the smallest size :math:`w_0`, and p follows from ``lr_search``:

- ``smallest``: p is given, 0.75 by default. That lies between no change (p = 0) and the power that keeps Adam's change
  of a layer's output the same at any width (p = 1, arXiv:2203.03466). The latter holds for hidden matrices, but neither
  for norms, biases and embeddings nor for towers, and all of these share one rate here. Searches at every size of two
  models on two worlds gave 0.60 to 1.07 (``docs/scaling.md``).
- ``two``: p is the slope between the best rates at two sizes, in logarithms, kept between 0 and 1.
- ``every``: no rule; every size is searched.

Depth changes no rate of the rule. Embedding tables do not grow with the model, so their rate is the same at every size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unimixer.errors import UnimixerError, check_positive
from unimixer.metrics import lower_is_better

POWER = 0.75
POWERS = (0.0, 0.5, 0.75, 1.0)
"""Powers that ``unimixer scale transfer`` compares."""
DIGITS = 3
"""Significant digits of a transferred rate: the rate is part of a row's name."""


class Rates(NamedTuple):
    """Learning rates of a run."""

    dense: float
    """Rate of the dense parameters."""
    sparse: float
    """Rate of the embedding tables."""
    mixing: float | None = None
    """Rate of learned mixings; None for that of the recipe."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rates:
        """Return the rates of a row."""
        rates: Iterable[Any] = (row.get(name) for name in ("dense_lr", "sparse_lr", "mixing_lr"))
        return cls(*rates)


def search_metric(row: Mapping[str, Any], monitor: str | None) -> float | None:
    """Return the validation metric by which rates are chosen, the larger the better; None if the row has none."""
    task, metric = (monitor or f"{json.loads(row['tasks'])[0]}.auc").rsplit(".", 1)
    value = row.get(f"validation_{task}_{metric}")
    return None if value is None else float(-value if lower_is_better(metric) else value)


def chosen_rates(rows: Sequence[Mapping[str, Any]], grid: Sequence[Rates], monitor: str | None) -> Rates | None:
    """Choose the best rates of a case; None while rows of its search are missing, or if all of them failed.

    The first of equal ones is chosen. A grid of one point needs no search.

    Args:
        rows: rows of one case; those of the first seed decide.
        grid: rates to choose from.
        monitor: ``TASK.METRIC`` on validation (default: the first task's AUC).
    """
    if len(grid) == 1:
        return grid[0]
    searched = {Rates.of(row): row for row in rows if row["seed"] == 0}
    if any(rates not in searched for rates in grid):
        return None
    values = {rates: search_metric(searched[rates], monitor) for rates in grid if searched[rates]["status"] == "ok"}
    metrics = {rates: value for rates, value in values.items() if value is not None}
    return max(metrics, key=lambda rates: metrics[rates]) if metrics else None


@dataclass(frozen=True)
class Transfer:
    """The rule that carries a learning rate to other widths, with its numbers.

    Args:
        rate: best rate at ``width``.
        width: width of the smallest size.
        power: p.
        at_edge: whether the best rate is the smallest or the largest of the grid.

    Example:
        >>> Transfer(rate=2e-3, width=32.0, power=0.5).at(128.0)
        0.001
    """

    rate: float
    width: float
    power: float = POWER
    at_edge: bool = False

    def at(self, width: float) -> float:
        """Compute the rate at another width."""
        check_positive(width=width)
        return rounded(self.rate * (width / self.width) ** -self.power)


def rounded(rate: float, digits: int = DIGITS) -> float:
    """Round a rate to a few significant digits.

    Example:
        >>> rounded(0.00123456)
        0.00123
    """
    return float(f"{rate:.{digits}g}")


def best_rate(metrics: Mapping[float, float]) -> tuple[float, bool]:
    r"""Find the best rate between those of a grid, and whether it is an end of the grid.

    The best rate is the top of the parabola through the best rate of the grid and its two neighbors, over the logarithm
    of the rate, and never beyond the neighbors. At an end of the grid it is that end.

    Args:
        metrics: by rate; the larger the better.

    Example:
        >>> best_rate({1e-3: 0.70, 2e-3: 0.72, 4e-3: 0.70})
        (0.002, False)
        >>> best_rate({1e-3: 0.70, 2e-3: 0.72})
        (0.002, True)
    """
    if not metrics:
        raise UnimixerError("no rate has a metric: every run of the search failed; read their errors in the rows")
    rates = sorted(metrics)
    best = max(range(len(rates)), key=lambda index: metrics[rates[index]])
    if len(rates) == 1:
        return rates[0], False
    if best in (0, len(rates) - 1):
        return rates[best], True
    near = [(math.log(rates[index]), metrics[rates[index]]) for index in (best - 1, best, best + 1)]
    top = _top(near)
    return rounded(math.exp(min(max(top, near[0][0]), near[2][0]))), False


def _top(points: Sequence[tuple[float, float]]) -> float:
    """Find the top of the parabola through three points whose middle one is the highest."""
    (a, fa), (b, fb), (c, fc) = points
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    return b if left == right else b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)


def power_between(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Compute the power of the rule from two sizes, each a width and its best rate; keep it between 0 and 1.

    Example:
        >>> power_between((32.0, 2e-3), (128.0, 1e-3))
        0.5
        >>> power_between((32.0, 1e-3), (128.0, 2e-3))
        0.0
    """
    (width, rate), (wider, other) = first, second
    check_positive(width=width, rate=rate, wider=wider, other=other)
    if width == wider:
        raise UnimixerError(
            f"both sizes have the width {width:g}, so how rates follow the width is unknown; choose other sizes"
        )
    return min(max(-math.log(other / rate) / math.log(wider / width), 0.0), 1.0)


@dataclass(frozen=True)
class LRTrial:
    """The validation metrics of a grid of rates at one size of one model.

    Args:
        model: label of the model.
        params: dense parameters.
        width: width of the model.
        metrics: metric on validation by rate, the larger the better.
    """

    model: str
    params: int
    width: float
    metrics: Mapping[float, float]

    def at(self, rate: float) -> float | None:
        """Interpolate the metric at a rate by a parabola; None outside the grid and for fewer than three rates."""
        rates = np.log(sorted(self.metrics))
        values = np.array([self.metrics[rate] for rate in sorted(self.metrics)])
        log_rate = math.log(rate)
        if not rates[0] - 1e-9 <= log_rate <= rates[-1] + 1e-9 or len(rates) < 3:
            return None
        start = int(np.clip(np.searchsorted(rates, log_rate) - 1, 0, len(rates) - 3))
        if start + 3 < len(rates) and abs(log_rate - rates[start + 2]) < abs(log_rate - rates[start]):
            start = min(start + (log_rate > rates[start + 1] + 1e-9), len(rates) - 3)
        near = slice(start, start + 3)
        return float(np.polyval(np.polyfit(rates[near], values[near], 2), log_rate))


def losses(trials: Sequence[LRTrial], powers: Sequence[float] = POWERS) -> list[dict[str, float | int | str | None]]:
    """Compute the loss of each rule: at each larger size, the metric at the best rate minus the metric at the rule's.

    Args:
        trials: grids of one or more models at two or more sizes.
        powers: rules to compare.

    Returns:
        One line per size: the best rate, the power that leads to it, and the rate and loss of each rule. The loss is
        None if the rule's rate lies outside the grid.
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
                rate = Transfer(base, first.width, power).at(trial.width)
                metric = trial.at(rate)
                line[f"rate at p={power:g}"] = rate
                line[f"loss at p={power:g}"] = None if metric is None else round(max(top - metric, 0.0), 6)
            lines.append(line)
    return lines
