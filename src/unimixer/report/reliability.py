"""The picture of calibration: how often the label is 1 among rows of neighboring probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from unimixer.metrics import Bin, TaskMetrics
from unimixer.report.figures import PALETTE, new_figure, save_figure, wrapped


def write_reliability(metrics: Mapping[str, TaskMetrics], path: Path) -> list[Path]:
    """Draw the bins of every task, observed over predicted, with intervals of 95%; return the PNG and the SVG.

    Args:
        metrics: of tasks, measured with ``ece``.
        path: file to write, without its ending.
    """
    bins = {task: values.reliability for task, values in metrics.items() if values.reliability}
    figure = new_figure(4.2 * len(bins), 4)
    for axis, (task, found) in zip(figure.subplots(1, len(bins), squeeze=False)[0], bins.items(), strict=True):
        bounds = [wilson(one) for one in found]
        predicted, observed = [one.predicted for one in found], [one.observed for one in found]
        errors = [
            [max(0.0, value - low) for value, (low, _) in zip(observed, bounds, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(observed, bounds, strict=True)],
        ]
        top = 1.05 * max(*predicted, *(high for _, high in bounds))
        axis.plot([0, top], [0, top], color="#999999", linewidth=1, linestyle="--")
        axis.errorbar(predicted, observed, yerr=errors, color=PALETTE[0], marker="o", markersize=4, capsize=2)
        values = metrics[task]
        title = wrapped(f"{task}: PCOC {values.calibration:.3f}", 40)
        axis.set(title=title, xlabel="mean prediction", ylabel="share of positives")
        axis.set(xlim=(0, top), ylim=(0, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)


def wilson(one: Bin, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of Wilson for the share of positives in a bin.

    Example:
        >>> [round(bound, 4) for bound in wilson(Bin(100, 100.0, predicted=0.5, observed=0.5, effective_rows=100))]
        [0.4038, 0.5962]
    """
    n, share = one.effective_rows, one.observed
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return center - half, center + half
