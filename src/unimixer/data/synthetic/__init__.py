"""Simulate a world with known true probabilities: any number of impressions, on any device, with torch alone."""

from __future__ import annotations

import torch

from unimixer.data.synthetic.config import DIFFICULTIES, WorldConfig
from unimixer.data.synthetic.fields import WorldField, world_fields
from unimixer.data.synthetic.wide import WideWorld
from unimixer.data.synthetic.world import BLOCK_ROWS, Snapshots, World, WorldState

__all__ = [
    "BLOCK_ROWS",
    "DIFFICULTIES",
    "Snapshots",
    "WideWorld",
    "World",
    "WorldConfig",
    "WorldField",
    "WorldState",
    "draw_world",
    "world_fields",
]


def draw_world(config: WorldConfig, device: torch.device | str = "cpu") -> World | WideWorld:
    """Draw a world: a wide one where ``num_fields`` is given.

    Example:
        >>> type(draw_world(WorldConfig(num_rows=1_000, num_fields=8))).__name__
        'WideWorld'
    """
    return World(config, device) if config.num_fields is None else WideWorld(config, device)
