"""Write a study as one page that works without network: plots, tables, method and the rows in one file."""

from __future__ import annotations

from typing import Any

from unimixer.analysis.comparison import ComparisonReport, Line, Table
from unimixer.analysis.selection import ComparisonGroup, Row, is_finished
from unimixer.analysis.weighted_metrics import HIGHER_IS_BETTER
from unimixer.report.figures import model_colors
from unimixer.report.html import render
from unimixer.report.methods import study_method
from unimixer.report.study_tables import (
    COLUMNS,
    METRIC_NAMES,
    caption,
    cells,
    conclusion,
    failure_table,
    glance_table,
    intro,
    metric_table,
    outcome,
    speed,
    summary_table,
)


def page(comparison: ComparisonReport, *, title: str, csv: str) -> str:
    """Render the page.

    Args:
        comparison: the tables.
        title: heading of the page.
        csv: all rows, as the file that the page offers for download.
    """
    return render(
        "study.html.j2",
        title=title,
        intro=intro(comparison),
        facts=_facts(comparison),
        groups=[_group(comparison, group) for group in comparison.groups],
        base=comparison.base,
        failures=failure_table(comparison),
        run_count=len(comparison.rows),
        method=study_method(comparison),
        csv=csv,
        csv_name="rows.csv",
        script="study.js",
        values=plot_values(comparison),
    )


def plot_values(comparison: ComparisonReport) -> dict[str, Any]:
    """Return the values that the script of the page plots, as plain values for JSON."""
    groups = comparison.groups
    metrics = list(dict.fromkeys(table.metric for table in comparison.tables))
    return {
        "base": comparison.base,
        "tasks": list(comparison.tasks),
        "columns": list(COLUMNS),
        "metrics": [{"key": m, "name": METRIC_NAMES[m], "higher": HIGHER_IS_BETTER[m]} for m in metrics],
        "colors": model_colors(row["variant"] for row in comparison.rows),
        "groups": [
            {
                "words": group.words,
                "dataset_hash": group.dataset_hash,
                "model_group": group.model_group,
                "kind": group.budget_kind,
                "budget": group.budget,
            }
            for group in groups
        ],
        "tables": [{"group": groups.index(table.group), **_table_values(table)} for table in comparison.tables],
        "search": [_search_values(row, comparison.tasks, metrics) for row in comparison.rows if is_finished(row)],
    }


def _facts(comparison: ComparisonReport) -> list[tuple[str, str]]:
    """Return the counts at the top of the page."""
    groups, rows = comparison.groups, comparison.rows
    datasets = len({group.dataset_hash for group in groups})
    counts = [
        (len({row["variant"] for row in rows}), "models"),
        (len({(group.budget_kind, group.budget) for group in groups}), "budgets"),
        (datasets, "data sets" if datasets > 1 else "data set"),
        (len({row["seed"] for row in rows}), "seeds"),
        (len(rows), "runs"),
        (len(comparison.failures), "failed"),
    ]
    return [(f"{count:,}", noun) for count, noun in counts]


def _group(comparison: ComparisonReport, group: ComparisonGroup) -> dict[str, Any]:
    """Return the tables of one group: all metrics at a glance, then everything that was compared by task."""
    tables = [table for table in comparison.tables if table.group == group]
    by_task: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        values = {
            "name": METRIC_NAMES[table.metric],
            "conclusion": conclusion(table, comparison.base),
            "table": metric_table(table),
            "caption": caption(table),
        }
        by_task.setdefault(table.task, []).append(values)
    return {
        "words": group.words,
        "comparisons": tables[0].comparisons,
        "glance": glance_table(tables),
        "tasks": [(task, summary_table(tables[0].lines, task), metrics) for task, metrics in by_task.items()],
    }


def _table_values(table: Table) -> dict[str, Any]:
    return {
        "task": table.task,
        "metric": table.metric,
        "caption": caption(table),
        "best": table.best_reachable,
        "lines": [_line_values(line) for line in table.lines],
    }


def _line_values(line: Line) -> dict[str, Any]:
    names = ("estimate", "low", "high", "by_seed")
    return {
        "variant": line.chosen.variant,
        "dense_lr": line.chosen.rates.dense,
        "sparse_lr": line.chosen.rates.sparse,
        "mixing_lr": line.chosen.rates.mixing,
        "values": [[seed, value] for seed, value in line.values.items()],
        "mean": line.mean,
        "spread": line.spread,
        "speed": speed(line),
        "compared": None if line.compared is None else {name: getattr(line.compared, name) for name in names},
        "verdict": line.conclusion,
        "outcome": outcome(line),
        "cells": cells(line),
    }


def _search_values(row: Row, tasks: tuple[str, ...], metrics: list[str]) -> dict[str, Any]:
    names = ("dataset_hash", "budget_kind", "budget", "variant", "dense_lr", "sparse_lr", "mixing_lr", "seed")
    values = {f"{task} {metric}": row.get(f"validation_{task}_{metric}") for task in tasks for metric in metrics}
    return {**{name: row.get(name) for name in names}, "values": values}
