"""Measure which experts the gates of several tasks choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unimixer.blocks.task_experts import Extraction
from unimixer.ranker import Ranker


@dataclass(frozen=True)
class GateReport:
    """Mean weights of the experts in one gate over some rows."""

    level: int
    """From 1, the one above the pooled output."""
    reader: str
    """The task, or ``shared`` for the gate in front of the next level's shared experts."""
    weights: dict[str, float]
    """Mean weight by expert; they add up to one."""
    largest: float
    """Largest weight of a row, mean over rows: 1 if every row chooses one expert."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"level": self.level, "reader": self.reader, "weights": self.weights, "largest": self.largest}


class GateMeter:
    """Accumulate the weights of one gate, ``(B, E)``.

    Args:
        level: of the gate, from 1.
        reader: of the mixture.
        experts: names of the experts, in the order of the weights.
    """

    def __init__(self, level: int, reader: str, experts: list[str]) -> None:
        self.level, self.reader, self.experts = level, reader, experts
        self._rows, self._sum, self._largest = 0, [0.0] * len(experts), 0.0
        self.weights: Tensor | None = None
        """Weights of the last forward pass."""

    def add(self, rows: int) -> None:
        """Add the first rows of the last forward pass."""
        assert self.weights is not None
        wide = self.weights[:rows].double()
        self._rows += len(wide)
        self._sum = [a + b for a, b in zip(self._sum, wide.sum(0).tolist(), strict=True)]
        self._largest += float(wide.amax(1).sum())

    def report(self) -> GateReport:
        """Return the means over all rows."""
        means = {name: total / self._rows for name, total in zip(self.experts, self._sum, strict=True)}
        return GateReport(self.level, self.reader, means, self._largest / self._rows)


@contextmanager
def watch_gates(model: Ranker) -> Iterator[list[GateMeter]]:
    """Give the meters of all gates the weights of every forward pass; a model without experts has no gates."""
    experts, meters, handles = model.towers.experts, list[GateMeter](), []

    def hook(meter: GateMeter) -> Any:
        return lambda module, arguments, weights: setattr(meter, "weights", weights.detach())

    for number, level in enumerate(() if experts is None else experts.levels, start=1):
        assert isinstance(level, Extraction)
        names = level.expert_names(model.spec.labels)
        gates = [*level.gates, *([] if level.shared_gate is None else [level.shared_gate])]
        for (reader, own), gate in zip(names.items(), gates, strict=True):
            meters.append(GateMeter(number, reader, own))
            handles.append(gate.register_forward_hook(hook(meters[-1])))
    try:
        yield meters
    finally:
        for handle in handles:
            handle.remove()
