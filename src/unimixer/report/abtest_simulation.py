"""Show a simulated experiment: the reading beside the truth, and what the users of every arm saw and did."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unimixer.analysis.formatting import NONE, p_value
from unimixer.closed_loop.result import Comparison, Result
from unimixer.errors import MissingExtraError
from unimixer.report.figures import PALETTE, name_rows, new_figure, row_height, save_figure, wrapped
from unimixer.report.tables import TextTable, bullets

ARM_COLUMNS = (
    "arm",
    "ranker",
    "AUC",
    "UAUC",
    "click rate",
    "likes a click",
    "similarity",
    "satisfaction",
    "sessions a user",
)
TRUTH_COLUMNS = (
    "metric",
    "arm",
    "true, control",
    "true, arm",
    "true effect",
    "read effect",
    "interval",
    "p",
    "holds it",
)


def arm_table(result: Result) -> TextTable:
    """Describe the arms by what they do to the whole population."""
    rows = [
        (
            one.arm,
            Path(one.ranker).name,
            f"{one.auc:.4f}",
            f"{one.uauc:.4f}",
            f"{one.click_rate:.4f}",
            f"{one.likes_per_click:.4f}",
            f"{one.similarity:.3f}",
            f"{one.satisfaction:+.3f}",
            f"{one.sessions:.2f}",
        )
        for one in result.simulation.arms
    ]
    return TextTable(ARM_COLUMNS, rows, text=(0, 1))


def truth_table(result: Result) -> TextTable:
    """Put every effect that was read beside the true one."""
    return TextTable(TRUTH_COLUMNS, [_cells(one) for one in result.comparisons], text=(0, 1))


def markdown(result: Result) -> str:
    """Write the result as Markdown."""
    reading = result.reading
    failed = [f"{check.name}: {check.sentence}" for check in reading.checks if not check.passed]
    parts = [
        f"# {reading.experiment.name}: {reading.verdict.decision}",
        bullets(reading.verdict.reasons),
        "## The arms, each shown to all users",
        arm_table(result).markdown(),
        "## Effects",
        truth_table(result).markdown(),
    ]
    if failed:
        parts += ["## Failed checks", bullets(failed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw_simulation(result: Result, path: Path) -> list[Path]:
    """Draw the effects and the users of every day; without matplotlib no file is written.

    Args:
        result: of the simulation.
        path: file to write, without its ending.
    """
    try:
        names = _names(_with_a_control(result))
        figure = new_figure(11, max(3.6, 0.8 + row_height(names, 0.2) * len(names)))
    except MissingExtraError:
        return []
    effects, users = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _draw_effects(effects, result)
    _draw_users(users, result)
    return save_figure(figure, path)


def _draw_effects(axis: Any, result: Result) -> None:
    shown = _with_a_control(result)
    for place, one in enumerate(shown):
        scale = 100 / one.true.control_value
        if one.read is not None:
            middle = one.read.difference * scale
            error = [[middle - one.read.low * scale], [one.read.high * scale - middle]]
            label = "read, with its interval" if place == 0 else None
            axis.errorbar(middle, place, xerr=error, fmt="o", color=PALETTE[0], capsize=4, label=label)
        axis.plot(one.true.relative * 100, place, "x", color=PALETTE[1], zorder=5, label="true" if place == 0 else None)
    name_rows(axis, _names(shown))
    axis.axvline(0, color="#94a3b8", linewidth=1)
    axis.set_xlabel("effect in % of the control")
    if shown:
        axis.legend(fontsize="small")


def _with_a_control(result: Result) -> list[Comparison]:
    return [one for one in result.comparisons if one.true.control_value]


def _names(shown: list[Comparison]) -> list[str]:
    several = len({one.true.arm for one in shown}) > 1
    return [f"{one.true.metric}, {one.true.arm}" if several else one.true.metric for one in shown]


def _draw_users(axis: Any, result: Result) -> None:
    for number, one in enumerate(result.simulation.arms):
        label = wrapped(f"{one.arm} ({Path(one.ranker).name}): AUC {one.auc:.4f}, click rate {one.click_rate:.3f}", 60)
        axis.plot(range(len(one.active)), one.active, color=PALETTE[number % len(PALETTE)], label=label)
    axis.set_xlabel("day of the experiment")
    axis.set_ylabel("users of the day, if all see the arm")
    axis.legend(fontsize="small")


def _cells(one: Comparison) -> tuple[str, ...]:
    true, read = one.true, one.read
    values = ((true.control_value, ".4f"), (true.arm_value, ".4f"), (true.difference, "+.4f"))
    shown = (NONE if math.isnan(value) else format(value, form) for value, form in values)
    known = (true.metric, true.arm, *shown)
    if read is None:
        return (*known, NONE, NONE, NONE, NONE)
    interval = f"{read.low:+.4f} to {read.high:+.4f}"
    return (*known, f"{read.difference:+.4f}", interval, p_value(read.p), "yes" if one.covered else "no")
