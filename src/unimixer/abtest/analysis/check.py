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


def failures(checks: Sequence[Check]) -> list[Check]:
    """List the checks that failed."""
    return [check for check in checks if not check.passed]
