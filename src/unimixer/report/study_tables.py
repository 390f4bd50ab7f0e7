"""How numbers of a study are written: the same in Markdown, on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from unimixer.analysis.comparison import Line, Table
from unimixer.analysis.formatting import NONE, compact, mean_and_spread, number, p_value, rate, signed
from unimixer.analysis.significance import LEVEL

METRIC_NAMES = {
    "auc": "AUC",
    "uauc": "UAUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "ne": "NE",
    "calibration": "calibration",
}
COLUMNS = (
    *("model", "dense parameters", "FLOPs a sample", "learning rate, dense · sparse", "seeds", "mean", "spread"),
    *("samples/s", "difference", f"{1 - LEVEL:.0%} interval", "p", "p, Holm", "conclusion"),
)
"""Of a table of one metric; the first and the last column are text."""


def seeds(line: Line) -> str:
    """How many seeds count, and which ones do not."""
    chosen, notes = line.chosen, []
    for numbers, what in ((tuple(sorted(chosen.failed)), "failed"), (chosen.missing, "missing")):
        if numbers:
            notes.append(f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} {what}")
    if line.compared is not None and line.compared.seeds < len(line.values):
        notes.append(f"{line.compared.seeds} compared")
    return f"{len(line.values)}" + (f" ({'; '.join(notes)})" if notes else "")


def speed(line: Line) -> float | None:
    """Samples a second in training, the mean over seeds."""
    rows = line.chosen.finished.values()
    found = [row["samples_per_second"] for row in rows if row.get("samples_per_second") is not None]
    return sum(found) / len(found) if found else None


def cells(line: Line) -> list[str]:
    """A line as texts, one for each of :data:`COLUMNS`."""
    row, found, samples = line.chosen.example, line.compared, speed(line)
    return [
        line.chosen.variant,
        NONE if row.get("dense_params") is None else f"{row['dense_params']:,}",
        NONE if row.get("flops_per_sample") is None else compact(row["flops_per_sample"]),
        f"{rate(line.chosen.dense_lr)} · {rate(line.chosen.sparse_lr)}",
        seeds(line),
        number(line.mean),
        number(line.spread),
        NONE if samples is None else f"{samples:,.0f}",
        NONE if found is None else signed(found.estimate),
        NONE if found is None else f"{signed(found.low)} to {signed(found.high)}",
        p_value(found.p if found else None),
        p_value(line.holm),
        line.conclusion,
    ]


def caption(table: Table) -> str:
    """What stands under a table."""
    parts = [f"{table.rows:,} test rows, {table.users:,} users"] if table.rows else []
    if table.comparisons:
        parts.append(f"p corrected for {table.comparisons} comparisons")
    if table.best_reachable is not None:
        parts.append(f"the true probabilities reach {table.best_reachable:.4f}")
    return "; ".join(parts)


def all_metrics(lines: Sequence[Line], task: str) -> list[list[str]]:
    """Model by model, mean ± spread of every metric of a task on the test rows."""
    found = []
    for line in lines:
        texts = [line.chosen.variant]
        for metric in METRIC_NAMES:
            values = [row.get(f"test_{task}_{metric}") for row in line.chosen.finished.values()]
            texts.append(mean_and_spread([value for value in values if value is not None]))
        found.append(texts)
    return found
