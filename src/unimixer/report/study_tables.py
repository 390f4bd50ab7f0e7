"""How numbers of a study are written: the same in Markdown, on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from unimixer.analysis.comparison import Line, Table
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
    *("samples/s", "difference", f"{1 - LEVEL:.0%} interval", "p", "p, Holm", "verdict"),
)
"""Of a table of one metric; the first and the last column are text."""
NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, *, digits: int = 4) -> str:
    """A metric to the fourth decimal."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference with its sign.

    Example:
        >>> signed(0.00123), signed(-0.00004), signed(0.0)
        ('+0.0012', '\N{MINUS SIGN}0.0000', '0.0000')
    """
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{abs(value):.4f}"


def p_value(value: float | None) -> str:
    """Three decimals; smaller ones as below.

    Example:
        >>> p_value(0.04), p_value(1e-9), p_value(None)
        ('0.040', '<0.001', '\N{EN DASH}')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def compact(value: float) -> str:
    """A large count to three digits.

    Example:
        >>> compact(2_000_099), compact(999), compact(12_345_678_901)
        ('2.00M', '999', '12.3B')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:#.3g}".removesuffix(".") + letter
    return f"{value:g}"


def rate(value: float | None) -> str:
    """A learning rate.

    Example:
        >>> rate(0.001), rate(0.0005), rate(0.25)
        ('1e-3', '5e-4', '0.25')
    """
    if value is None:
        return NONE
    if value >= 0.01:
        return f"{value:g}"
    digits, _, power = f"{value:.6e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


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
        line.verdict,
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


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return NONE
    middle = sum(values) / len(values)
    if len(values) == 1:
        return number(middle)
    deviation = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{middle:.4f} ± {deviation:.4f}"
