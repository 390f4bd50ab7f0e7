"""What is said on the command line about a points file, checked: units, floors, sizes to predict."""

from __future__ import annotations

from unimixer.analysis.units import parse_number
from unimixer.errors import UnimixerError


def parse_sizes(text: str) -> list[float]:
    """Sizes, separated by commas.

    Example:
        >>> parse_sizes("64M,1B")
        [64000000.0, 1000000000.0]
    """
    return [_number("--at", part) for part in text.split(",") if part.strip()]


def parse_floor(text: str) -> tuple[float, float]:
    """A floor, or its two bounds.

    Example:
        >>> parse_floor("0.2"), parse_floor("0,0.25")
        ((0.2, 0.2), (0.0, 0.25))
    """
    ends = [_number("--floor", part) for part in text.split(",") if part.strip()]
    if len(ends) not in (1, 2) or not 0 <= ends[0] <= ends[-1]:
        raise UnimixerError(f"--floor {text!r}: expected a number, or LOW,HIGH with 0 <= LOW <= HIGH")
    return ends[0], ends[-1]


def _number(option: str, text: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        raise UnimixerError(f"{option} {text.strip()!r} is not a number, such as 64M or 0.25") from None
