"""A row to change."""

from __future__ import annotations

from typing import Any

from benchmarks.suite.results import Row

VALUES: dict[str, Any] = {
    "benchmark": "mixing",
    "case": "L=8 b=2",
    "implementation": "two-step",
    "status": "ok",
    "machine": "a machine",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
    "torch": "2.13.0",
    "python": "3.11.0",
    "unimixer": "0.1.0",
    "commit": "abc",
    "date": "2030-01-01",
    "repeats": 7,
    "seconds": 0.25,
    "spread": 0.01,
}


def row(**changes: Any) -> Row:
    """The row with changes."""
    return Row(**(VALUES | changes))
