"""Random draws of a world: ids, numbers and times."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from unimixer.data.synthetic.fields import WorldField

DAY_MS = 86_400_000
START_MS = 1_735_718_400_000
"""1 January 2025, 08:00 UTC: the daily wave of activity starts in the morning and peaks twelve hours later."""
WAVE = 0.7
"""Depth of the daily wave: activity at the peak is ``(1 + WAVE) / (1 - WAVE)`` times that at the trough."""


def zipf(rows: int, size: int, exponent: float, generator: Generator) -> Tensor:
    r"""Draw ranks from 0 to ``size - 1`` by inverting the distribution function of a bounded power law.

    .. math:: P(r) \propto \int_{r+1}^{r+2} x^{-s} dx

    No table is needed, so the cost does not depend on the size.
    """
    uniform = torch.rand(rows, generator=generator, device=generator.device, dtype=torch.float64)
    if exponent == 1:
        value = (size + 1) ** uniform
    else:
        power = 1 - exponent
        value = (1 + uniform * ((size + 1) ** power - 1)) ** (1 / power)
    return value.long().sub_(1).clamp_(0, size - 1)


def numbers(rows: int, field: WorldField, generator: Generator) -> Tensor:
    """Draw log-normal numbers, NaN where one is missing."""
    normal = torch.randn(rows, generator=generator, device=generator.device)
    values = torch.exp(field.log_mean + field.log_std * normal)
    hidden = torch.rand(rows, generator=generator, device=generator.device) < field.missing
    return values.masked_fill_(hidden, math.nan)


def event_times(first: int, rows: int, total: int, days: int, generator: Generator) -> Tensor:
    """Draw the event times in milliseconds of rows ``first ... first + rows - 1`` of ``total``, never decreasing."""
    steps = torch.arange(first, first + rows, device=generator.device, dtype=torch.float64)
    steps += torch.rand(rows, generator=generator, device=generator.device, dtype=torch.float64)
    even = steps * (days / total)  # days since the start, evenly spread
    return START_MS + ((even + WAVE / math.tau * torch.sin(math.tau * even)) * DAY_MS).long()


def time_of_day(uniform: Tensor) -> Tensor:
    """Turn uniform numbers into parts of a day that begins at midnight UTC, with the daily wave of the log."""
    start = START_MS % DAY_MS / DAY_MS
    return (uniform + start + WAVE / math.tau * torch.sin(math.tau * uniform)) % 1.0


def hour_of(time: Tensor) -> Tensor:
    """Return the hour of the day, UTC."""
    return time // 3_600_000 % 24
