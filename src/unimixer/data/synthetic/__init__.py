"""A world whose true probabilities are known: as many impressions as wanted, by seed, on any device; torch alone."""

from unimixer.data.synthetic.config import DIFFICULTIES, WorldConfig, WorldField, world_fields
from unimixer.data.synthetic.world import BLOCK_ROWS, Snapshots, World

__all__ = ["BLOCK_ROWS", "DIFFICULTIES", "Snapshots", "World", "WorldConfig", "WorldField", "world_fields"]
