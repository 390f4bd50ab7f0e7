"""The result of a check of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.001
"""Error level of every check, so that a sound experiment rarely fails one."""
SPECIFICATION, SPLIT, ARMS, OUTCOMES, CLOCKS, ORDER, BOTS, BALANCED, SEGMENTS, LOOK, UNITS = (
    "specification",
    "sample ratio",
    "one arm a unit",
    "outcomes arrive",
    "clocks",
    "exposure before outcome",
    "bots",
    "balance before the start",
    "segments",
    "one look",
    "enough units",
)


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str
    passed: bool
    sentence: str
    breaks: bool = True
    """Whether a failure breaks the experiment; otherwise waiting mends it."""


def exceeds(count: int, total: int, share: float) -> bool:
    """Return whether a count is beyond an allowed share of a total, and not by chance: few of few prove nothing.

    Chance is the binomial distribution with the allowed share; its upper tail must be below :data:`LEVEL`.

    Example:
        >>> exceeds(1, 20, 0.01), exceeds(50, 1_000, 0.01)
        (False, True)
    """
    from scipy.stats import binom

    return count > share * total and float(binom.sf(count - 1, total, share)) < LEVEL


def failures(checks: Sequence[Check]) -> list[Check]:
    """List the checks that failed."""
    return [check for check in checks if not check.passed]
