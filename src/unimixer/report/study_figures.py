"""Draw a study as pictures, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from unimixer.analysis.comparison import ComparisonReport, Line, Table
from unimixer.analysis.formatting import rate
from unimixer.analysis.selection import is_finished
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.models import slug
from unimixer.experiments.sizes import short
from unimixer.report.figures import (
    add_legend,
    model_colors,
    name_rows,
    new_figure,
    row_height,
    save_figure,
    set_log_ticks,
    wrapped,
)
from unimixer.report.study_tables import METRIC_NAMES, outcome, speed

OUTCOME_COLORS = {"better": "#0f766e", "worse": "#c2410c"}
UNDECIDED = "#64748b"


def draw_figures(comparison: ComparisonReport, folder: Path) -> list[Path]:
    """Draw every figure of a study, one for each task and kind, and return the files.

    Args:
        comparison: the tables.
        folder: folder to write to; it is created if needed.
    """
    written = []
    for name, draw in _figures(comparison):
        written += save_figure(draw(), folder / name)
    return written


def _figures(comparison: ComparisonReport) -> Iterator[tuple[str, Callable[[], Any]]]:
    with_rates = len({Rates.of(row) for row in comparison.rows}) > 1
    for task in comparison.tasks:
        tables = [table for table in comparison.tables if table.task == task]
        if any(table.metric == "log_loss" for table in tables):  # the same picture in another unit
            tables = [table for table in tables if table.metric != "ne"]
        if not tables:
            continue
        end = slug(task)
        if any(line.compared is not None for table in tables for line in table.lines):
            yield f"differences-{end}", partial(_grid, tables, comparison, _differences, sharey=True)
        yield f"seeds-{end}", partial(_grid, tables, comparison, _seeds, sharey=True)
        first = [table for table in tables if table.metric == tables[0].metric]
        yield f"speed-{end}", partial(_grid, first, comparison, _speed)
        if with_rates:
            yield f"learning-rates-{end}", partial(_grid, first, comparison, _rates)
        if len({(t.group.budget_kind, t.group.budget) for t in first}) > 1:
            yield f"budgets-{end}", partial(_budgets, tables, comparison)


def _grid(tables: list[Table], comparison: ComparisonReport, draw: Callable[..., None], *, sharey: bool = False) -> Any:
    """Draw a row for each group and a column for each metric; of a single metric, two groups in a row."""
    groups = list(dict.fromkeys(table.group for table in tables))
    metrics = list(dict.fromkeys(table.metric for table in tables))
    columns = len(metrics) if len(metrics) > 1 else min(2, len(groups))
    rows = -(-len(tables) // columns) if len(metrics) == 1 else len(groups)
    most = max(len(table.lines) for table in tables)
    height = row_height((line.chosen.variant for table in tables for line in table.lines), 0.34)
    size = (1.6 + 3.3 * columns, rows * (1.1 + height * most) + 0.4) if sharey else (5.4 * columns, 3.9 * rows)
    figure = new_figure(*size)
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if sharey else False)
    for axis in axes.flat:
        axis.axis("off")
    for table in tables:
        at = (groups.index(table.group), metrics.index(table.metric))
        axis = axes[at] if len(metrics) > 1 else axes.flat[at[0]]
        axis.axis("on")
        draw(axis, table, comparison)
        title = (table.group.words, f"{METRIC_NAMES[table.metric]} of {table.task}")
        axis.set_title("\n".join(wrapped(line, 40) for line in title), fontsize="small")
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize="small")
    return add_legend(figure, axes)


def _differences(axis: Any, table: Table, comparison: ComparisonReport) -> None:
    """Draw a forest plot: difference to the base and its interval."""
    lines = [line for line in table.lines if line.compared is not None]
    if not lines:
        axis.axis("off")
        return
    axis.axvline(0, color="black", linewidth=0.8)
    for index, line in enumerate(lines):
        assert line.compared is not None
        color, difference = OUTCOME_COLORS.get(outcome(line), UNDECIDED), line.compared
        axis.plot([difference.low, difference.high], [index, index], color=color, linewidth=2)
        full = color if outcome(line) else "white"
        axis.plot(difference.estimate, index, "o", color=color, markerfacecolor=full, markersize=6)
    name_rows(axis, [line.chosen.variant for line in lines])
    axis.set_xlabel(wrapped(f"difference to {comparison.base}", 40), fontsize="small")
    axis.locator_params(axis="x", nbins=5)


def _seeds(axis: Any, table: Table, comparison: ComparisonReport) -> None:
    colors = _colors(comparison)
    for index, line in enumerate(table.lines):
        color = colors[line.chosen.variant]
        axis.plot(list(line.values.values()), [index] * len(line.values), "o", color=color, alpha=0.6, markersize=5)
        if line.mean is not None:
            axis.plot(line.mean, index, "|", color=color, markersize=15, markeredgewidth=2.5)
    name_rows(axis, [line.chosen.variant for line in table.lines])
    axis.set_xlabel("one dot a seed, a bar at the mean", fontsize="small")
    axis.locator_params(axis="x", nbins=5)


def _speed(axis: Any, table: Table, comparison: ComparisonReport) -> None:
    colors = _colors(comparison)
    points = [(at, line) for line in table.lines if (at := speed(line)) is not None and line.mean is not None]
    for at, line in points:
        _with_spread(axis, at, line, colors[line.chosen.variant])
    axis.set_xscale("log")
    if points:
        _round_ticks(axis, min(at for at, _ in points), max(at for at, _ in points))
    _label_axes(axis, "samples a second in training", METRIC_NAMES[table.metric])


def _round_ticks(axis: Any, low: float, high: float) -> None:
    """Set ticks at 1, 2 and 5 times powers of ten around the points."""
    ticks = [digit * 10.0**power for power in range(10) for digit in (1, 2, 5)]
    first = max((n for n, tick in enumerate(ticks) if tick <= low), default=0)
    last = min((n for n, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    chosen = ticks[first : last + 1]
    set_log_ticks(axis, chosen, [f"{tick:,.0f}" for tick in chosen])
    axis.set_xlim(chosen[0] * 0.95, chosen[-1] * 1.05)


def _with_spread(axis: Any, x: float, line: Line, color: str) -> None:
    axis.errorbar(x, line.mean, line.spread or 0.0, fmt="o", color=color, capsize=3, label=line.chosen.variant)


def _rates(axis: Any, table: Table, comparison: ComparisonReport) -> None:
    """Draw the validation metric of the search, with a ring around the chosen rate."""
    colors, column = _colors(comparison), f"validation_{table.task}_{table.metric}"
    group = table.group
    for line in table.lines:
        same = (group.dataset_hash, group.budget_kind, group.budget, line.chosen.variant)
        rows = [
            row
            for row in comparison.rows
            if (row["dataset_hash"], row["budget_kind"], row["budget"], row["variant"]) == same
            and is_finished(row)
            and Rates.of(row)._replace(dense=0) == line.chosen.rates._replace(dense=0)
            and row.get(column) is not None
        ]
        first = min((row["seed"] for row in rows), default=0)
        tried = sorted((row["dense_lr"], row[column]) for row in rows if row["seed"] == first)
        if not tried:
            continue
        axis.plot(*zip(*tried, strict=True), "o-", color=colors[line.chosen.variant], label=line.chosen.variant)
        chosen = [pair for pair in tried if pair[0] == line.chosen.rates.dense]
        if chosen:
            axis.plot(
                *zip(*chosen, strict=True), "o", color=colors[line.chosen.variant], fillstyle="none", markersize=12
            )
    ticks = sorted({row["dense_lr"] for row in comparison.rows})
    set_log_ticks(axis, ticks, [rate(tick) for tick in ticks])
    _label_axes(axis, "learning rate of the dense parameters", f"validation {METRIC_NAMES[table.metric]}")


def _budgets(tables: list[Table], comparison: ComparisonReport) -> Any:
    """Draw mean and spread against the budget: a panel for each metric, a row for each data set and kind of budget."""
    colors = _colors(comparison)
    rows = list(
        dict.fromkeys((t.group.dataset, t.group.dataset_hash, t.group.budget_kind, t.group.model_group) for t in tables)
    )
    metrics = list(dict.fromkeys(table.metric for table in tables))
    figure = new_figure(1.6 + 3.6 * len(metrics), 3.4 * len(rows))
    axes = figure.subplots(len(rows), len(metrics), squeeze=False)
    for number, (dataset, digest, kind, model_group) in enumerate(rows):
        for column, metric in enumerate(metrics):
            axis, points = axes[number, column], _by_model(tables, (digest, kind, model_group), metric)
            for variant, lines in points.items():
                x, y, e = zip(*((b, line.mean, line.spread or 0.0) for b, line in lines), strict=True)
                axis.errorbar(x, y, e, marker="o", capsize=3, color=colors[variant], label=variant)
            ticks = sorted({b for lines in points.values() for b, _ in lines})
            set_log_ticks(axis, ticks, [short(tick) for tick in ticks])
            title = ", ".join(filter(None, (dataset, model_group, METRIC_NAMES[metric])))
            axis.set_title(wrapped(title, 40), fontsize="small")
            axis.grid(alpha=0.25)
            unit = {"params": "dense parameters", "flops": "FLOPs a sample", "width": "width"}[kind]
            _label_axes(axis, unit, f"{METRIC_NAMES[metric]} of {tables[0].task}")
    return add_legend(figure, axes)


def _by_model(tables: list[Table], where: tuple[str, str, str], metric: str) -> Mapping[str, list[tuple[int, Line]]]:
    points: dict[str, list[tuple[int, Line]]] = {}
    for table in tables:
        group = table.group
        if (group.dataset_hash, group.budget_kind, group.model_group) == where and table.metric == metric:
            for line in table.lines:
                if line.mean is not None:
                    points.setdefault(line.chosen.variant, []).append((group.budget, line))
    return {variant: sorted(lines, key=lambda pair: pair[0]) for variant, lines in points.items()}


def _label_axes(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize="small")
    axis.set_ylabel(y, fontsize="small")


def _colors(comparison: ComparisonReport) -> dict[str, str]:
    return model_colors(row["variant"] for row in comparison.rows)
