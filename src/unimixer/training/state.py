"""Where a run stands between two steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainState:
    """Where a run stands; with the checkpoint's tensors it decides everything that follows."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch taken."""
    best: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    """Training time without evaluations and checkpoints."""
    samples: int = 0
