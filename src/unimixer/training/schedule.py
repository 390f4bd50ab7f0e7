"""What changes with the step: learning rate and temperature, as pure functions of it, so that a resumed run agrees."""

from __future__ import annotations

import math

from unimixer.blocks import linear_temperature
from unimixer.training.config import OptimizerConfig, TemperatureConfig


def rate(config: OptimizerConfig, step: int, total: int) -> float:
    """Factor on both learning rates at optimizer step ``step`` of ``total``."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.decay == "none":
        return warm
    done = min(1.0, step / max(1, total))
    return warm * (1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def temperature(config: TemperatureConfig, step: int, total: int) -> float:
    """Temperature at a step; the two stages of ``two-stage`` are two runs at constant temperatures."""
    if config.schedule == "linear":
        return linear_temperature(step, total, start=config.start, end=config.end)
    return config.end
