"""Points of scaling curves whose laws are known, to try fits on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from unimixer.analysis.units import GAIN


@dataclass(frozen=True)
class Truth:
    """A known law to simulate; ``a`` counts sizes in units of one."""

    a: float
    b: float
    c: float = 0.0
    form: str = GAIN

    def at(self, size: float) -> float:
        """Compute the metric without noise."""
        return float(self.c + self.a * float(size) ** (self.b if self.form == GAIN else -self.b))


def simulate(
    truths: Mapping[str, Truth],
    sizes: Sequence[float],
    *,
    generator: np.random.Generator,
    seeds: int = 2,
    size_noise: float = 0.0,
    seed_noise: float = 0.01,
) -> pl.DataFrame:
    """Simulate the points of a sweep.

    Args:
        truths: the law of every model.
        sizes: parameters.
        generator: of the noise.
        seeds: runs of a size.
        size_noise: standard deviation of the logarithm that the runs of a size share.
        seed_noise: standard deviation of the logarithm of a run.

    Example:
        >>> frame = simulate({"m": Truth(0.001, 0.1)}, [1e6, 1e7], generator=np.random.default_rng(0))
        >>> frame.columns, frame.height
        (['model', 'params', 'flops', 'metric', 'seed'], 4)
    """
    rows = []
    for model, truth in truths.items():
        for size in sizes:
            shared = size_noise * generator.normal()
            for seed in range(seeds):
                metric = truth.at(size) * float(np.exp(shared + seed_noise * generator.normal()))
                rows.append((model, int(size), 2.0 * size, metric, seed))
    return pl.DataFrame(rows, schema=["model", "params", "flops", "metric", "seed"], orient="row")
