"""A specification that tests change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from unimixer.abtest.specification import Experiment
from unimixer.settings import parse

VALUES: dict[str, Any] = {
    "name": "mixer",
    "arms": {"old": {}, "new": {"bundle": "bundles/new"}},
    "start": "2026-03-01",
    "end": "2026-03-31",
    "metrics": [{"name": "ctr", "kind": "ratio", "event": "click", "denominator": "show"}],
}


def experiment(**changes: Any) -> Experiment:
    return parse(Experiment, {**VALUES, **changes}, where="mixer.yaml")


def microseconds(text: str) -> int:
    """A moment in UTC, in microseconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
