"""What the page's script is given: tables, searches and colours as plain values."""

from __future__ import annotations

from typing import Any

from unimixer.analysis.comparison import ComparisonReport, Line, Table
from unimixer.analysis.selection import Row, is_finished
from unimixer.analysis.weighted_metrics import HIGHER_IS_BETTER
from unimixer.report.study_figures import colours
from unimixer.report.study_tables import COLUMNS, METRIC_NAMES, caption, cells, speed


def payload(found: ComparisonReport) -> dict[str, Any]:
    """Plain values for JSON."""
    places = found.places
    metrics = list(dict.fromkeys(table.metric for table in found.tables))
    return {
        "base": found.base,
        "tasks": list(found.tasks),
        "columns": list(COLUMNS),
        "metrics": [{"key": m, "name": METRIC_NAMES[m], "higher": HIGHER_IS_BETTER[m]} for m in metrics],
        "colours": colours(found),
        "places": [
            {
                "words": place.words,
                "family": ", ".join(filter(None, (place.store, place.group))),
                "store_hash": place.store_hash,
                "group": place.group,
                "kind": place.budget_kind,
                "budget": place.budget,
                "budget_words": place.budget_words,
            }
            for place in places
        ],
        "tables": [{"place": places.index(table.place), **_table(table)} for table in found.tables],
        "search": [_search(row, found.tasks, metrics) for row in found.rows if is_finished(row)],
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "task": table.task,
        "metric": table.metric,
        "caption": caption(table),
        "best": table.best_reachable,
        "lines": [_line(line) for line in table.lines],
    }


def _line(line: Line) -> dict[str, Any]:
    found = line.compared
    compared = None
    if found is not None:
        names = ("estimate", "low", "high", "p", "seeds", "by_seed")
        compared = {name: getattr(found, name) for name in names}
    return {
        "variant": line.chosen.variant,
        "dense_lr": line.chosen.dense_lr,
        "sparse_lr": line.chosen.sparse_lr,
        "values": [[seed, value] for seed, value in line.values.items()],
        "mean": line.mean,
        "spread": line.spread,
        "speed": speed(line),
        "params": line.chosen.example.get("dense_params"),
        "flops": line.chosen.example.get("flops_per_sample"),
        "compared": compared,
        "verdict": line.conclusion,
        "cells": cells(line),
    }


def _search(row: Row, tasks: tuple[str, ...], metrics: list[str]) -> dict[str, Any]:
    names = ("store_hash", "budget_kind", "budget", "variant", "dense_lr", "sparse_lr", "seed")
    values = {f"{task} {metric}": row.get(f"validation_{task}_{metric}") for task in tasks for metric in metrics}
    return {**{name: row.get(name) for name in names}, "values": values}
