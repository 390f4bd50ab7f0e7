"""Draw scaling laws as pictures, PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.analysis.power_law import ERROR, Law
from unimixer.analysis.scaling_laws import Analysis
from unimixer.analysis.series import NAMES
from unimixer.report.figures import model_colors, new_figure, save_figure, wrapped
from unimixer.report.scaling_tables import between, exponent, plain, size

STEPS = 60
"""Points of a drawn curve."""
BEYOND = 2.0
"""Pictures continue curves to this multiple of the largest size."""


def draw_figures(analyses: Sequence[Analysis], folder: Path) -> list[Path]:
    """Draw one picture for each kind of size, the residuals beside the curves, and return the files."""
    written = []
    for analysis in analyses:
        written += save_figure(_curves(analysis), folder / f"scaling-{analysis.x}")
    return written


def analysis_colors(analyses: Sequence[Analysis]) -> dict[str, str]:
    """Assign a color to every model, the same for all kinds of size."""
    return model_colors(model for analysis in analyses for model in analysis.series)


def curve(law: Law, *, beyond: float) -> dict[str, Any]:
    """Compute the law, its band and the interval of one run on a grid of sizes.

    Args:
        law: a fitted law.
        beyond: multiple of the largest size at which the grid ends.

    Returns:
        Lists by name; ``inside`` counts the points of the grid up to the largest size.
    """
    low, high = float(law.x.min()), float(law.x.max())
    inside = np.geomspace(low, high, STEPS)
    grid = np.concatenate([inside, np.geomspace(high, high * beyond, STEPS // 2)[1:]])
    values: dict[str, Any] = {"size": grid.tolist(), "value": law.at(grid).tolist(), "inside": len(inside)}
    for name, ends in (("band", law.band(grid)), ("run", law.prediction(grid))):
        values[name] = None if ends is None else [_bounded(end) for end in ends]
    return values


def _curves(analysis: Analysis) -> Any:
    figure = new_figure(11.5, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    colors = analysis_colors([analysis])
    for model, law in analysis.laws.items():
        color, series, line = colors[model], analysis.series[model], curve(law, beyond=BEYOND)
        ends = "" if law.b_interval is None else f" ({between(law.b_interval)})"
        inside = line["inside"]
        if line["band"] is not None:
            left.fill_between(line["size"], *line["band"], color=color, alpha=0.13, linewidth=0)
        left.plot(
            line["size"][:inside],
            line["value"][:inside],
            color=color,
            label=wrapped(f"{model}: b = {exponent(law.b)}{ends}", 48),
        )
        left.plot(line["size"][inside - 1 :], line["value"][inside - 1 :], color=color, linestyle=":")
        left.plot(series.x, series.y, "o", color=color, markersize=4.5, alpha=0.75)
        right.plot(series.x, 100 * law.residuals, "o", color=color, markersize=4.5, alpha=0.75)
    values = [value for series in analysis.series.values() for value in series.y]
    left.set_yscale("log")
    left.set_ylim(min(values) / _room(values), max(values) * _room(values))
    _ticks(left, min(values), max(values))
    left.set_ylabel(analysis.words + (" (lower is better)" if analysis.form == ERROR else ""))
    right.set_ylabel("residual, %")
    right.axhline(0, color="black", linewidth=0.8)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel(NAMES[analysis.x])
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize="small")
        axis.xaxis.set_major_formatter(lambda value, _: size(value, analysis.x).replace(".00", "").replace(".0", ""))
    left.legend(fontsize="small", title="law, with its interval; dotted beyond the runs", title_fontsize="small")
    right.set_title("what the law leaves over", fontsize="small")
    return figure


def _room(values: list[float]) -> float:
    """Return the factor by which an axis exceeds the values: a tenth of their span."""
    return float((max(values) / min(values)) ** 0.15 * 1.002)


def _ticks(axis: Any, low: float, high: float) -> None:
    """Set ticks at round values if the axis spans less than a factor of ten."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if high / low < 10:
        axis.yaxis.set_major_locator(FixedLocator(MaxNLocator(6).tick_values(low, high)))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: plain(value))


def _bounded(values: Any) -> list[float]:
    """Clip values for JSON and for axes: an interval from one degree of freedom can be astronomical."""
    return [float(value) for value in np.clip(values, 1e-12, 1e12)]
