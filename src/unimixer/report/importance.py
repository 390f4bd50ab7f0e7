"""The table and the picture of feature importance."""

from __future__ import annotations

import json
from pathlib import Path

from unimixer.analysis.importance import Importance, Loss
from unimixer.io import write_text
from unimixer.report.figures import PALETTE, name_rows, new_figure, row_height, save_figure

TITLES = {"auc": "AUC", "uauc": "UAUC", "log_loss": "log loss"}


def importance_rows(importance: Importance) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table."""
    metrics = list(importance.base)
    rows = [[part.name, *(_with_interval(part.losses[metric]) for metric in metrics)] for part in importance.parts]
    changes = {metric: "rise" if metric == "log_loss" else "drop" for metric in metrics}
    return ["part", *(f"{changes[metric]} of {TITLES[metric]}" for metric in metrics)], rows


def write_importance(importance: Importance, path: Path) -> list[Path]:
    """Write the numbers as JSON and the picture as PNG and SVG; return the files.

    Args:
        importance: what was measured.
        path: file to write, without its ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = path.with_name(f"{path.name}.json")
    write_text(numbers, json.dumps(importance.as_json(), indent=1) + "\n")
    metrics, shown = list(importance.base), importance.parts
    names = [part.name for part in shown]
    figure = new_figure(1.5 + 3.6 * len(metrics), 1.2 + row_height(names, 0.28) * len(names))
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    columns, _ = importance_rows(importance)
    for axis, metric, title in zip(axes, metrics, columns[1:], strict=True):
        losses = [part.losses[metric] for part in shown]
        worse = [loss.worse for loss in losses]
        errors = [[loss.worse - loss.low for loss in losses], [loss.high - loss.worse for loss in losses]]
        axis.barh(range(len(names)), worse, xerr=errors, color=PALETTE[0], ecolor="#57534e", capsize=2)
        name_rows(axis, names)
        axis.axvline(0, color="#57534e", linewidth=0.8)
        axis.set(xlabel=title)
    return [numbers, *save_figure(figure, path)]


def _with_interval(loss: Loss) -> str:
    return f"{loss.worse:.4f} ({loss.low:.4f} to {loss.high:.4f})"
