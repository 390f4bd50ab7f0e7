"""Runs drawn from laws that are known: what a fit has to find again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from unimixer.analysis.power_law import GAIN


@dataclass(frozen=True)
class Truth:
    """A law to draw from: ``a`` counts sizes in units of one."""

    a: float
    b: float
    c: float = 0.0
    form: str = GAIN

    def at(self, size: float) -> float:
        """The metric without noise."""
        return float(self.c + self.a * float(size) ** (self.b if self.form == GAIN else -self.b))


def simulate(
    truths: Mapping[str, Truth],
    sizes: Sequence[float],
    *,
    generator: np.random.Generator,
    seeds: int = 2,
    size_noise: float = 0.0,
    seed_noise: float = 0.01,
    flops_per_parameter: float = 2.0,
) -> pl.DataFrame:
    """Points as a sweep would leave them.

    Args:
        truths: the law of every model.
        sizes: parameters.
        generator: of the noise.
        seeds: runs of a size.
        size_noise: standard deviation of the logarithm that the runs of a size share.
        seed_noise: standard deviation of the logarithm of a run.
        flops_per_parameter: forward, a sample.

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
                rows.append((model, int(size), flops_per_parameter * size, metric, seed))
    return pl.DataFrame(rows, schema=["model", "params", "flops", "metric", "seed"], orient="row")
