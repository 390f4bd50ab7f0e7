"""Watch a run from outside: hear its evaluations, end it early, choose the parts that it is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Observer:
    """The interest of a caller in a run while it trains."""

    splits: tuple[str, ...] = ("validation", "test")
    """Held-out parts on which a finished run measures its best weights."""
    evaluated: Callable[[int, int, float], None] | None = None
    """Takes the number of an evaluation, how many there will be, and the monitored metric; an error ends the run."""

    tested: Callable[[Tensor], None] | None = None
    """Takes the logits ``(B, tasks)`` of the best weights on every batch of the test part, in its order; those of one
    process."""

    def hear(self, step: int, total_steps: int, interval: int, value: float) -> None:
        """Pass an evaluation on; the last one may come before a whole interval has passed."""
        if self.evaluated is not None:
            self.evaluated(-(-step // interval), -(-total_steps // interval), value)

    def of_first_stage(self) -> Observer:
        """Return the observer of a warm-up run, whose evaluations are not those of the whole run."""
        return replace(self, evaluated=None, tested=None)


UNOBSERVED = Observer()
"""Nobody interferes, and both held-out parts are measured."""
