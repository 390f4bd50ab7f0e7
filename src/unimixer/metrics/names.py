"""Metrics that are measured where they are asked for, by their names: ``ndcg@10``, ``mrr``, ``hitrate@5``, ``ece``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from unimixer.errors import UnimixerError, unknown

ON_DEMAND = ("ndcg", "mrr", "hitrate", "ece", "rig")
_SPELLINGS = {"hr": "hitrate", "hit": "hitrate"}
_NEEDS_NUMBER, _TAKES_NO_NUMBER = ("hitrate",), ("rig",)
_ALWAYS = ("auc", "uauc", "gauc", "logloss", "ne", "normalisedentropy", "normalizedentropy", "pcoc", "calibration")
LISTWISE = ("ndcg", "mrr", "hitrate")
"""Metrics of the list of a request or a user."""


class Metric(NamedTuple):
    """A metric and its number: places of a list, or bins."""

    kind: str
    number: int | None

    @property
    def name(self) -> str:
        """The one spelling, as in results."""
        return self.kind if self.number is None else f"{self.kind}@{self.number}"


def read_metric(text: str) -> Metric:
    """Read the name of a metric in any case, with or without ``_`` and ``-``.

    Example:
        >>> read_metric("NDCG@10").name, read_metric("HitRate@5").name, read_metric("hit_rate@5").name
        ('ndcg@10', 'hitrate@5', 'hitrate@5')
    """
    word, at, number = text.lower().strip().partition("@")
    plain = re.sub(r"[_\s-]", "", word)
    kind = _SPELLINGS.get(plain, plain)
    if kind in _ALWAYS:
        raise UnimixerError(f"metric {text!r} is always measured; leave it out")
    if kind not in ON_DEMAND:
        raise unknown("metric", text, ON_DEMAND)
    if at and not (number.isdecimal() and int(number) > 0):
        raise UnimixerError(f"metric {text!r}: {number!r} is not a number of places or bins; write {kind}@10")
    if not at and kind in _NEEDS_NUMBER:
        raise UnimixerError(f"metric {text!r} needs a number of places; write {kind}@10")
    if at and kind in _TAKES_NO_NUMBER:
        raise UnimixerError(f"metric {text!r} takes no number; write {kind}")
    return Metric(kind, int(number) if at else None)


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the one spelling of every metric, each once."""
    return tuple(dict.fromkeys(read_metric(name).name for name in names))


def metrics_of_lists(names: Sequence[str]) -> list[str]:
    """Return the metrics that are measured in the list of a request or a user."""
    return [name for name in names if read_metric(name).kind in LISTWISE]
