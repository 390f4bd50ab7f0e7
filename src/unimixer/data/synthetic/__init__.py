"""Simulate a world with known true probabilities: any number of impressions, on any device, with torch alone."""

from unimixer.data.synthetic.config import DIFFICULTIES, WorldConfig, WorldField, world_fields
from unimixer.data.synthetic.world import BLOCK_ROWS, Snapshots, World

__all__ = ["BLOCK_ROWS", "DIFFICULTIES", "Snapshots", "World", "WorldConfig", "WorldField", "world_fields"]
