"""Mean attention matrices, and how sharp attention is for a single sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimixer.inspection.matrices import row_entropy


@dataclass(frozen=True)
class AttentionReport:
    """The weights of a global pattern that depends on the tokens, over some samples."""

    place: str
    rows: int
    mean: Tensor
    """Mean weights ``(H, M, N)``."""
    row_maximum: float
    """Largest weight of a row, mean over rows, heads and samples."""
    row_entropy: float | None
    """Entropy of a row divided by that of a flat one, likewise; None where weights are no distributions."""

    def as_json(self) -> dict[str, Any]:
        """Numbers without the matrices."""
        heads, out, blocks = self.mean.shape
        sizes = {"heads": heads, "out_blocks": out, "blocks": blocks}
        return {
            "place": self.place,
            "rows": self.rows,
            **sizes,
            "row_maximum": self.row_maximum,
            "row_entropy": self.row_entropy,
        }


class AttentionMeter:
    """Adds up the weights of batches, ``(B, H, M, N)``.

    The mean matrix of sharp rows that differ between samples is flat, so sharpness is measured sample by sample.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._rows = 0
        self._sum: Tensor | float = 0.0
        self._maximum = 0.0
        self._entropy: float | None = 0.0

    def add(self, weights: Tensor) -> None:
        """Add the samples of a batch."""
        wide = weights.double()
        self._rows += len(wide)
        self._sum = self._sum + wide.sum(0)
        self._maximum += wide.amax(-1).mean((1, 2)).sum().item()
        entropy = row_entropy(wide)
        if entropy is None or self._entropy is None:
            self._entropy = None
        else:
            self._entropy += entropy.mean((1, 2)).sum().item()

    def report(self) -> AttentionReport:
        """Means of what was added."""
        assert isinstance(self._sum, Tensor)
        entropy = None if self._entropy is None else self._entropy / self._rows
        mean = (self._sum / self._rows).to(torch.float32)
        return AttentionReport(self.place, self._rows, mean, self._maximum / self._rows, entropy)
