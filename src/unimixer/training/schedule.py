"""Learning rate and temperature as pure functions of the step, so that a resumed run agrees."""

from __future__ import annotations

import math

from unimixer.errors import check_positive
from unimixer.training.config import OptimizerConfig, TemperatureConfig


def rate(config: OptimizerConfig, step: int, total: int) -> float:
    """Compute the factor on all learning rates at optimizer step ``step`` of ``total``."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.decay == "none":
        return warm
    done = min(1.0, step / max(1, total))
    return warm * (1 - done if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def temperature(config: TemperatureConfig, step: int, total: int) -> float:
    """Compute the temperature at a step; the two stages of ``two-stage`` are two runs at constant temperatures."""
    if config.schedule == "linear":
        return linear_temperature(step, total, start=config.start, end=config.end)
    return config.end


def linear_temperature(step: int, total: int, start: float = 1.0, end: float = 0.05) -> float:
    r"""Anneal linearly, :math:`\tau_j = \max(\tau_s - (\tau_s - \tau_e)\, j / J,\ \tau_e)`.

    arXiv:2604.00590, "training". After the last step the temperature stays at its end.

    Example:
        >>> [round(linear_temperature(step, 10), 3) for step in (0, 5, 10, 20)]
        [1.0, 0.525, 0.05, 0.05]
    """
    check_positive(total=total, start=start, end=end)
    return start + (end - start) * min(max(step / total, 0.0), 1.0)
