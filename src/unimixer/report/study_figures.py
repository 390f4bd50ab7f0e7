"""A study as pictures for pages that do not move: PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from unimixer.analysis.comparison import BETTER, WORSE, ComparisonReport, Line, Table
from unimixer.analysis.formatting import rate
from unimixer.analysis.selection import is_finished
from unimixer.errors import MissingExtraError
from unimixer.experiments.models import slug
from unimixer.experiments.sizes import short
from unimixer.io import atomic_file
from unimixer.report.study_tables import METRIC_NAMES, speed

DPI = 130
WORD_COLOURS = {BETTER: "#0f766e", WORSE: "#c2410c"}
UNDECIDED = "#64748b"
PALETTE = ("#2563eb", "#d97706", "#0f766e", "#be185d", "#7c3aed", "#4d7c0f", "#0891b2", "#b91c1c", "#57534e", "#a16207")
"""One colour a model, on light and dark ground."""


def draw_figures(found: ComparisonReport, folder: Path) -> list[Path]:
    """Draw every figure of a study, one file a task and kind, as PNG and as SVG; return the files.

    Args:
        found: the tables.
        folder: where; made if it is not there.
    """
    written = []
    for name, draw in _figures(found):
        written += save_figure(draw(), folder / name)
    return written


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG, the same numbers as the same files; return the two.

    Args:
        figure: of matplotlib.
        path: without ending.
    """
    written = []
    for kind, facts in (("png", {}), ("svg", {"Date": None})):
        target = path.with_name(f"{path.name}.{kind}")
        with atomic_file(target) as temporary, _same_file_again():
            figure.savefig(temporary, dpi=DPI, format=kind, metadata=facts)
        figure.set_layout_engine("none")  # placed already; doing it again takes as long as drawing
        written.append(target)
    return written


def colours(found: ComparisonReport) -> dict[str, str]:
    """The colour of every model, the same in all figures."""
    names = dict.fromkeys(row["variant"] for row in found.rows)
    return {str(name): PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


def _figures(found: ComparisonReport) -> Iterator[tuple[str, Callable[[], Any]]]:
    with_rates = len({(row["dense_lr"], row["sparse_lr"]) for row in found.rows}) > 1
    for task in found.tasks:
        tables = [table for table in found.tables if table.task == task]
        if any(table.metric == "log_loss" for table in tables):  # the same picture in another unit
            tables = [table for table in tables if table.metric != "ne"]
        if not tables:
            continue
        end = slug(task)
        if any(line.compared is not None for table in tables for line in table.lines):
            yield f"differences-{end}", partial(_grid, tables, found, _differences, sharey=True)
        yield f"seeds-{end}", partial(_grid, tables, found, _seeds, sharey=True)
        first = [table for table in tables if table.metric == tables[0].metric]
        yield f"speed-{end}", partial(_grid, first, found, _speed)
        if with_rates:
            yield f"learning-rates-{end}", partial(_grid, first, found, _rates)
        if len({(t.place.budget_kind, t.place.budget) for t in first}) > 1:
            yield f"budgets-{end}", partial(_budgets, tables, found)


def _grid(tables: list[Table], found: ComparisonReport, draw: Callable[..., None], *, sharey: bool = False) -> Any:
    """A row a place and a column a metric; where there is one metric, two places a row."""
    places = list(dict.fromkeys(table.place for table in tables))
    metrics = list(dict.fromkeys(table.metric for table in tables))
    columns = len(metrics) if len(metrics) > 1 else min(2, len(places))
    rows = -(-len(tables) // columns) if len(metrics) == 1 else len(places)
    most = max(len(table.lines) for table in tables)
    size = (1.6 + 3.3 * columns, rows * (1.1 + 0.34 * most) + 0.4) if sharey else (5.4 * columns, 3.9 * rows)
    figure = figure_class()(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if sharey else False)
    for axis in axes.flat:
        axis.axis("off")
    for table in tables:
        at = (places.index(table.place), metrics.index(table.metric))
        axis = axes[at] if len(metrics) > 1 else axes.flat[at[0]]
        axis.axis("on")
        draw(axis, table, found)
        axis.set_title(f"{table.place.words}\n{METRIC_NAMES[table.metric]} of {table.task}", fontsize="small")
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize="small")
    return with_legend(figure, axes)


def _differences(axis: Any, table: Table, found: ComparisonReport) -> None:
    """A forest: difference to the base and its interval."""
    lines = [line for line in table.lines if line.compared is not None]
    if not lines:
        axis.axis("off")
        return
    axis.axvline(0, color="black", linewidth=0.8)
    for place, line in enumerate(lines):
        assert line.compared is not None
        colour, one = WORD_COLOURS.get(line.conclusion, UNDECIDED), line.compared
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
        full = colour if line.conclusion in WORD_COLOURS else "white"
        axis.plot(one.estimate, place, "o", color=colour, markerfacecolor=full, markersize=6)
    axis.set_yticks(range(len(lines)), [line.chosen.variant for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_xlabel(f"difference to {found.base}", fontsize="small")
    axis.locator_params(axis="x", nbins=5)


def _seeds(axis: Any, table: Table, found: ComparisonReport) -> None:
    own = colours(found)
    for place, line in enumerate(table.lines):
        colour = own[line.chosen.variant]
        axis.plot(list(line.values.values()), [place] * len(line.values), "o", color=colour, alpha=0.6, markersize=5)
        if line.mean is not None:
            axis.plot(line.mean, place, "|", color=colour, markersize=15, markeredgewidth=2.5)
    axis.set_yticks(range(len(table.lines)), [line.chosen.variant for line in table.lines])
    axis.set_ylim(len(table.lines) - 0.5, -0.5)
    axis.set_xlabel("one dot a seed, a bar at the mean", fontsize="small")
    axis.locator_params(axis="x", nbins=5)


def _speed(axis: Any, table: Table, found: ComparisonReport) -> None:
    own = colours(found)
    points = [(at, line) for line in table.lines if (at := speed(line)) is not None and line.mean is not None]
    for at, line in points:
        _with_spread(axis, at, line, own[line.chosen.variant])
    axis.set_xscale("log")
    if points:
        _round_ticks(axis, min(at for at, _ in points), max(at for at, _ in points))
    _name(axis, "samples a second in training", METRIC_NAMES[table.metric])


def _round_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten around the points."""
    ticks = [digit * 10.0**power for power in range(10) for digit in (1, 2, 5)]
    first = max((n for n, tick in enumerate(ticks) if tick <= low), default=0)
    last = min((n for n, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    chosen = ticks[first : last + 1]
    axis.set_xticks(chosen, [f"{tick:,.0f}" for tick in chosen])
    axis.set_xticks([], minor=True)
    axis.set_xlim(chosen[0] * 0.95, chosen[-1] * 1.05)


def _with_spread(axis: Any, x: float, line: Line, colour: str) -> None:
    axis.errorbar(x, line.mean, line.spread or 0.0, fmt="o", color=colour, capsize=3, label=line.chosen.variant)


def _rates(axis: Any, table: Table, found: ComparisonReport) -> None:
    """Validation metric of the search; the chosen rate is ringed."""
    own, column = colours(found), f"validation_{table.task}_{table.metric}"
    place = table.place
    for line in table.lines:
        same = (place.store_hash, place.budget_kind, place.budget, line.chosen.variant)
        rows = [
            row
            for row in found.rows
            if (row["store_hash"], row["budget_kind"], row["budget"], row["variant"]) == same
            and is_finished(row)
            and row["sparse_lr"] == line.chosen.sparse_lr
            and row.get(column) is not None
        ]
        first = min((row["seed"] for row in rows), default=0)
        tried = sorted((row["dense_lr"], row[column]) for row in rows if row["seed"] == first)
        if not tried:
            continue
        axis.plot(*zip(*tried, strict=True), "o-", color=own[line.chosen.variant], label=line.chosen.variant)
        chosen = [pair for pair in tried if pair[0] == line.chosen.dense_lr]
        if chosen:
            axis.plot(*zip(*chosen, strict=True), "o", color=own[line.chosen.variant], fillstyle="none", markersize=12)
    axis.set_xscale("log")
    ticks = sorted({row["dense_lr"] for row in found.rows})
    axis.set_xticks(ticks, [rate(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    _name(axis, "learning rate of the dense parameters", f"validation {METRIC_NAMES[table.metric]}")


def _budgets(tables: list[Table], found: ComparisonReport) -> Any:
    """Mean and spread against the budget, a panel a metric; a row a data set and kind of budget."""
    own = colours(found)
    rows = list(dict.fromkeys((t.place.store, t.place.store_hash, t.place.budget_kind, t.place.group) for t in tables))
    metrics = list(dict.fromkeys(table.metric for table in tables))
    figure = figure_class()(figsize=(1.6 + 3.6 * len(metrics), 3.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(metrics), squeeze=False)
    for number, (store, digest, kind, group) in enumerate(rows):
        for column, metric in enumerate(metrics):
            axis, points = axes[number, column], _by_model(tables, (digest, kind, group), metric)
            for variant, lines in points.items():
                x, y, e = zip(*((b, line.mean, line.spread or 0.0) for b, line in lines), strict=True)
                axis.errorbar(x, y, e, marker="o", capsize=3, color=own[variant], label=variant)
            axis.set_xscale("log")
            ticks = sorted({b for lines in points.values() for b, _ in lines})
            axis.set_xticks(ticks, [short(tick) for tick in ticks])
            axis.set_xticks([], minor=True)
            axis.set_title(", ".join(filter(None, (store, group, METRIC_NAMES[metric]))), fontsize="small")
            axis.grid(alpha=0.25)
            unit = "dense parameters" if kind == "params" else "FLOPs a sample"
            _name(axis, unit, f"{METRIC_NAMES[metric]} of {tables[0].task}")
    return with_legend(figure, axes)


def _by_model(tables: list[Table], where: tuple[str, str, str], metric: str) -> Mapping[str, list[tuple[int, Line]]]:
    points: dict[str, list[tuple[int, Line]]] = {}
    for table in tables:
        if (table.place.store_hash, table.place.budget_kind, table.place.group) == where and table.metric == metric:
            for line in table.lines:
                if line.mean is not None:
                    points.setdefault(line.chosen.variant, []).append((table.place.budget, line))
    return {variant: sorted(lines, key=lambda pair: pair[0]) for variant, lines in points.items()}


def _name(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize="small")
    axis.set_ylabel(y, fontsize="small")


def with_legend(figure: Any, axes: Any) -> Any:
    """One legend for all panels, beside them."""
    named: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if named:
        figure.legend(list(named.values()), list(named), loc="outside right upper", fontsize="small")
    return figure


def figure_class() -> Any:
    """The figure of the plotting library, which is an extra."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing", "report") from None
    return Figure


def _same_file_again() -> AbstractContextManager[None]:
    """Names inside an SVG are drawn at random by default; here the same numbers give the same file."""
    from matplotlib import rc_context

    return rc_context({"svg.hashsalt": "unimixer"})
