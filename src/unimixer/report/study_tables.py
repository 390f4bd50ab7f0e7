"""Write the comparison of a study as cells and sentences, the same for Markdown, the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from unimixer.analysis.comparison import BASE, BETTER, INCONCLUSIVE, WORSE, ComparisonReport, Line, Table
from unimixer.analysis.formatting import NONE, compact, mean_and_spread, number, p_value, rate, signed
from unimixer.analysis.selection import ComparisonGroup
from unimixer.analysis.significance import LEVEL
from unimixer.report.tables import Badge, TextTable

METRIC_NAMES = {
    "auc": "AUC",
    "uauc": "UAUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "ne": "NE",
    "calibration": "calibration",
    "excess_log_loss": "excess log loss",
}
COLUMNS = (
    *("model", "dense parameters", "FLOPs a sample", "learning rate, dense · sparse (· mixing)"),
    *("seeds", "mean", "spread"),
    *("samples/s", "difference", f"{1 - LEVEL:.0%} interval", "p", "p, Holm", "conclusion"),
)
"""Columns of the table of one metric."""
_OUTCOMES = {BETTER: "better", WORSE: "worse"}


def outcome(line: Line) -> str:
    """Return ``better`` or ``worse`` than the base, or nothing where the comparison does not decide."""
    return _OUTCOMES.get(line.conclusion, "")


def cells(line: Line) -> list[str]:
    """Write one model, a text for each of :data:`COLUMNS`."""
    row, difference, samples = line.chosen.example, line.compared, speed(line)
    return [
        line.chosen.variant,
        NONE if row.get("dense_params") is None else f"{row['dense_params']:,}",
        NONE if row.get("flops_per_sample") is None else compact(row["flops_per_sample"]),
        " · ".join(rate(value) for value in line.chosen.rates if value is not None),
        _seeds(line),
        number(line.mean),
        number(line.spread),
        NONE if samples is None else f"{samples:,.0f}",
        NONE if difference is None else signed(difference.estimate),
        NONE if difference is None else f"{signed(difference.low)} to {signed(difference.high)}",
        p_value(difference.p if difference else None),
        p_value(line.holm),
        Badge(line.conclusion, outcome(line)),
    ]


def metric_table(table: Table) -> TextTable:
    """Write one metric of all models, with the difference to the base."""
    return TextTable(COLUMNS, [cells(line) for line in table.lines], text=(0, len(COLUMNS) - 1))


def summary_table(lines: Sequence[Line], task: str) -> TextTable:
    """Write mean ± spread of every metric of a task on the test rows."""
    known = any(f"test_{task}_excess_log_loss" in row for line in lines for row in line.chosen.finished.values())
    names = {metric: name for metric, name in METRIC_NAMES.items() if known or metric != "excess_log_loss"}
    rows = []
    for line in lines:
        texts = [line.chosen.variant]
        for metric in names:
            values = [row.get(f"test_{task}_{metric}") for row in line.chosen.finished.values()]
            texts.append(mean_and_spread([value for value in values if value is not None]))
        rows.append(texts)
    return TextTable(("model", *names.values()), rows)


def glance_table(tables: Sequence[Table]) -> TextTable:
    """Write the differences of all metrics of one group, with a word for those that the data decide."""
    rows = [
        [line.chosen.variant, *(_difference(table.lines[index]) for table in tables)]
        for index, line in enumerate(tables[0].lines)
    ]
    tasks = [table.task for table in tables]
    groups = [(task, tasks.count(task)) for task in dict.fromkeys(tasks)]
    return TextTable(("", *(METRIC_NAMES[table.metric] for table in tables)), rows, groups=groups)


def failure_table(comparison: ComparisonReport) -> TextTable:
    """Write the failed runs with their errors."""
    rows = [[str(row["key"]), str(row.get("error") or "")] for row in comparison.failures]
    return TextTable(("row", "error"), rows, text=(0, 1))


def speed(line: Line) -> float | None:
    """Return samples per second in training, the mean over seeds."""
    rows = line.chosen.finished.values()
    speeds = [row["samples_per_second"] for row in rows if row.get("samples_per_second") is not None]
    return sum(speeds) / len(speeds) if speeds else None


def caption(table: Table) -> str:
    """Write the line below a table: its rows and users, and what its p-values are corrected for."""
    parts = [f"{table.rows:,} test rows, {table.users:,} users"] if table.rows else []
    if table.comparisons:
        parts.append(f"p corrected for {table.comparisons} comparisons")
    if table.best_reachable is not None:
        parts.append(f"the true probabilities reach {table.best_reachable:.4f}")
    return "; ".join(parts)


def intro(comparison: ComparisonReport) -> str:
    """Write how many runs of how many models are compared."""
    models = len({row["variant"] for row in comparison.rows})
    failed = f", {len(comparison.failures)} of them failed" if comparison.failures else ""
    return (
        f"{len(comparison.rows)} runs{failed}: {models} model{'s' if models > 1 else ''}, compared with "
        f"{comparison.base}. A difference gets a word only where its corrected p is below 0.05; no row is set in bold."
    )


def conclusions(comparison: ComparisonReport, group: ComparisonGroup) -> list[str]:
    """Write one sentence for each task and metric of a group."""
    tables = [table for table in comparison.tables if table.group == group]
    return [f"{METRIC_NAMES[table.metric]} of {table.task}: {conclusion(table, comparison.base)}" for table in tables]


def conclusion(table: Table, base: str) -> str:
    """Write which models are better than the base, which are worse, and which the data cannot decide."""
    parts = []
    for word, preposition in ((BETTER, "than"), (WORSE, "than"), (INCONCLUSIVE, "against")):
        lines = [line for line in table.lines if line.conclusion == word]
        names = [f"{line.chosen.variant} ({signed(line.compared.estimate)})" for line in lines if line.compared]
        if names:
            parts.append(f"{word} {preposition} {base}: {', '.join(names)}")
    decided = (BETTER, WORSE, INCONCLUSIVE, BASE)
    others = [f"{line.chosen.variant}: {line.conclusion}" for line in table.lines if line.conclusion not in decided]
    return "; ".join(parts + others) or "nothing to compare"


def _seeds(line: Line) -> str:
    """Write how many seeds count, and which ones do not."""
    chosen, notes = line.chosen, []
    for numbers, reason in ((tuple(sorted(chosen.failed)), "failed"), (chosen.missing, "missing")):
        if numbers:
            notes.append(f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} {reason}")
    if line.compared is not None and line.compared.seeds < len(line.values):
        notes.append(f"{line.compared.seeds} compared")
    return f"{len(line.values)}" + (f" ({'; '.join(notes)})" if notes else "")


def _difference(line: Line) -> str:
    if line.compared is None:
        return line.conclusion
    difference, kind = signed(line.compared.estimate), outcome(line)
    interval = f"{signed(line.compared.low)} to {signed(line.compared.high)}"
    text = f"{difference} {line.conclusion}" if kind else difference
    return Badge(text, kind, f"{line.conclusion}; {interval}; p {p_value(line.holm)}")
