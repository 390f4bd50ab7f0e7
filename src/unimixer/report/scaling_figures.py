"""Scaling laws as pictures: PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimixer.analysis.power_law import ERROR
from unimixer.analysis.scaling_laws import Analysis
from unimixer.analysis.series import NAMES
from unimixer.report.scaling_series import curve
from unimixer.report.scaling_tables import between, exponent, plain, size
from unimixer.report.study_figures import PALETTE, figure_class, save_figure

AHEAD = 2.0
"""Curves are drawn to so many times the largest size."""


def draw_figures(found: Sequence[Analysis], folder: Path) -> list[Path]:
    """One picture a kind of size, the residuals beside the curves; return the files."""
    written = []
    for one in found:
        written += save_figure(_curves(one), folder / f"scaling-{one.x}")
    return written


def colours(found: Sequence[Analysis]) -> dict[str, str]:
    """The colour of every model, the same everywhere."""
    names = dict.fromkeys(model for one in found for model in one.series)
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


def _curves(found: Analysis) -> Any:
    figure = figure_class()(figsize=(11.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    own = colours([found])
    for model, law in found.laws.items():
        colour, series, line = own[model], found.series[model], curve(law, beyond=AHEAD)
        ends = "" if law.b_interval is None else f" ({between(law.b_interval)})"
        inside = line["inside"]
        if line["band"] is not None:
            left.fill_between(line["size"], *line["band"], color=colour, alpha=0.13, linewidth=0)
        left.plot(
            line["size"][:inside], line["value"][:inside], color=colour, label=f"{model}: b = {exponent(law.b)}{ends}"
        )
        left.plot(line["size"][inside - 1 :], line["value"][inside - 1 :], color=colour, linestyle=":")
        left.plot(series.x, series.y, "o", color=colour, markersize=4.5, alpha=0.75)
        right.plot(series.x, 100 * law.residuals, "o", color=colour, markersize=4.5, alpha=0.75)
    values = [value for series in found.series.values() for value in series.y]
    left.set_yscale("log")
    left.set_ylim(min(values) / _room(values), max(values) * _room(values))
    _ticks(left, min(values), max(values))
    left.set_ylabel(found.words + (" (lower is better)" if found.form == ERROR else ""))
    right.set_ylabel("residual, %")
    right.axhline(0, color="black", linewidth=0.8)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel(NAMES[found.x])
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize="small")
        axis.xaxis.set_major_formatter(lambda value, _: size(value, found.x).replace(".00", "").replace(".0", ""))
    left.legend(fontsize="small", title="law, with its interval; dotted beyond the runs", title_fontsize="small")
    right.set_title("what the law leaves over", fontsize="small")
    return figure


def _room(values: list[float]) -> float:
    """Above and below the runs: a tenth of what they span, as a factor."""
    return float((max(values) / min(values)) ** 0.15 * 1.002)


def _ticks(axis: Any, low: float, high: float) -> None:
    """Round values a reader can name, where the axis spans less than a factor of ten."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if high / low < 10:
        axis.yaxis.set_major_locator(FixedLocator(MaxNLocator(6).tick_values(low, high)))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: plain(value))
