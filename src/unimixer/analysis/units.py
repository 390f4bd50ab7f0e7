"""Parse the numbers, units and sizes of a points file, and refuse implausible ones."""

from __future__ import annotations

from collections.abc import Mapping

from unimixer.errors import UnimixerError, check_choice

FACTORS = {"": 1.0, "1": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "%": 1e-2, "percent": 1e-2}
UNITS = {"params": ("1", "K", "M", "B"), "flops": ("1", "K", "M", "G", "T"), "metric": ("1", "percent")}
"""Units that a column may have."""
SMALLEST = {"params": 1e3, "flops": 1e3}
LARGEST = {"params": 1e13, "flops": 1e18}
AUC, GAIN, ERROR, EXCESS = "auc", "gain", "error", "excess_log_loss"
METRICS = (AUC, GAIN, ERROR, EXCESS)
"""Kinds of metric: an AUC, a difference of AUCs, an error (1 - AUC, best - AUC, a log loss), or the excess log loss, an
error whose floor is 0."""


def parse_units(text: str) -> dict[str, str]:
    """Parse the units of columns: ``params=M,flops=T,metric=percent``.

    Example:
        >>> parse_units("params=M,metric=%")
        {'params': 'M', 'metric': 'percent'}
    """
    units = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        column, equals, unit = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UnimixerError(f"--units {part!r}: expected COLUMN=UNIT, for example params=M or metric=percent")
        check_choice("column of --units", column, tuple(UNITS))
        unit = "percent" if unit == "%" else unit
        check_choice(f"unit of {column}", unit, UNITS[column])
        units[column] = unit
    return units


def parse_number(text: str) -> float:
    """Parse a cell: a number, with or without K, M, B, G, T or % behind it; ValueError for anything else.

    Example:
        >>> parse_number("135.5M"), parse_number("0.4752%"), parse_number("1e6")
        (135500000.0, 0.004752, 1000000.0)
    """
    cell = text.strip()
    if not cell:
        return float("nan")
    last = cell[-1]
    if last in FACTORS and not last.isdigit():
        return float(f"{float(cell[:-1]) * FACTORS[last]:.12g}")
    return float(cell)


def parse_sizes(text: str) -> list[float]:
    """Parse sizes, separated by commas.

    Example:
        >>> parse_sizes("64M,1B")
        [64000000.0, 1000000000.0]
    """
    sizes = [_option_number("--at", part) for part in text.split(",") if part.strip()]
    if not sizes:
        raise UnimixerError(f"--at {text!r} names no size; give one, such as 64M, or leave it out")
    return sizes


def parse_floor(text: str) -> tuple[float, float]:
    """Parse an irreducible error, or its two bounds.

    Example:
        >>> parse_floor("0.2"), parse_floor("0,0.25")
        ((0.2, 0.2), (0.0, 0.25))
    """
    ends = [_option_number("--floor", part) for part in text.split(",") if part.strip()]
    if len(ends) not in (1, 2) or not 0 <= ends[0] <= ends[-1]:
        raise UnimixerError(f"--floor {text!r}: expected a number, or LOW,HIGH with 0 <= LOW <= HIGH")
    return ends[0], ends[-1]


def _option_number(option: str, text: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        raise UnimixerError(f"{option} {text.strip()!r} is not a number, such as 64M or 0.25") from None


def check_size(column: str, value: float, where: str, units: Mapping[str, str]) -> None:
    """Raise if a number of parameters or FLOPs is implausible."""
    if not value > 0:
        raise UnimixerError(f"{where}: {column}={value:g} must be greater than 0; correct the row, or remove it")
    if column not in SMALLEST:
        return
    if value < SMALLEST[column]:
        unit = {"params": "M", "flops": "G"}[column]
        raise UnimixerError(
            f"{where}: {column}={value:g} is too few for a ranker, as if it were counted in millions or more; "
            f"say so with --units {column}={unit} (units: {', '.join(UNITS[column])}), or write whole numbers"
        )
    if value > LARGEST[column]:
        option = f" with --units {column}={units[column]}" if column in units else ""
        raise UnimixerError(
            f"{where}: {column}={value:g}{option} is too many; this row's unit is not that of the others, "
            "or it has none"
        )


def check_metric(kind: str, value: float, where: str) -> None:
    """Raise if a metric is impossible or implausible for its kind."""
    percent = "it looks like percent: give --units metric=percent, or divide the column by 100"
    if kind == AUC and value > 1:
        raise UnimixerError(f"{where}: metric={value:g} is no AUC, which lies between 0 and 1; {percent}")
    if kind == AUC and value <= 0:
        raise UnimixerError(f"{where}: metric={value:g} is no AUC, which lies between 0 and 1; correct the row")
    if kind == GAIN and abs(value) > 0.5:
        auc = "where the column holds AUCs, say --metric-is auc; else " if 0.5 < value <= 1 else ""
        raise UnimixerError(f"{where}: metric={value:g} is no difference of AUCs, which is at most 0.5; {auc}{percent}")
    if kind == GAIN and value <= 0:
        raise UnimixerError(
            f"{where}: metric={value:g}: a gain must be above 0, because the fit takes its logarithm; remove the row "
            "(the base model itself is no point), or choose a lower base"
        )
    if kind in (ERROR, EXCESS) and value <= 0:
        raise UnimixerError(
            f"{where}: metric={value:g}: an error must be above 0, because the fit takes its logarithm; remove the "
            "row, or, where it is best - AUC, take a higher best reachable AUC"
        )
    if kind in (ERROR, EXCESS) and value > 20:
        raise UnimixerError(f"{where}: metric={value:g} is a very large error; {percent}")
