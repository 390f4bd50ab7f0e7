"""Format numbers the same way in tables, pages, Markdown and messages."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, *, digits: int = 4) -> str:
    """Format a metric with four decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Format a difference with its sign.

    Example:
        >>> signed(0.00123), signed(-0.00004), signed(0.0)
        ('+0.0012', '\N{MINUS SIGN}0.0000', '0.0000')
    """
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{abs(value):.4f}"


def p_value(value: float | None) -> str:
    """Format a p-value with three decimals, a smaller one as ``<0.001``.

    Example:
        >>> p_value(0.04), p_value(1e-9), p_value(None)
        ('0.040', '<0.001', '\N{EN DASH}')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def compact(value: float) -> str:
    """Format a large count with three digits.

    Example:
        >>> compact(2_000_099), compact(999), compact(12_345_678_901)
        ('2.00M', '999', '12.3B')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:#.3g}".removesuffix(".") + letter
    return f"{value:g}"


def rate(value: float | None) -> str:
    """Format a learning rate.

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


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean ± standard deviation."""
    if not values:
        return NONE
    middle = sum(values) / len(values)
    if len(values) == 1:
        return number(middle)
    deviation = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{middle:.4f} ± {deviation:.4f}"
