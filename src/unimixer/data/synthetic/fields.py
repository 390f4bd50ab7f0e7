"""The fields of a synthetic world: users, items and the context of an impression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unimixer.data.synthetic.config import WorldConfig

DOMAINS: tuple[Literal["user", "item", "context"], ...] = ("user", "item", "context")


@dataclass(frozen=True)
class WorldField:
    """One field of the world: Zipf-distributed ids, or a log-normal number that is sometimes missing."""

    name: str
    domain: Literal["user", "item", "context"]
    size: int = 0
    """Number of ids; 0 for a number."""
    exponent: float = 1.0
    """Id r has a frequency near ``r ** -exponent``."""
    log_mean: float = 0.0
    log_std: float = 1.0
    missing: float = 0.0
    """Share of values that are missing (numbers)."""

    @property
    def numeric(self) -> bool:
        """Whether the field is a number."""
        return self.size == 0


def world_fields(config: WorldConfig) -> tuple[WorldField, ...]:
    """Return all fields: users, then items, then the context of an impression."""
    if config.num_fields is not None:
        return wide_fields(config.num_fields, config)
    size = config.between
    users = config.num_users or size(6_000, 500_000)
    items = config.num_items or size(1_200, 300_000)
    return (
        WorldField("user_id", "user", users, 0.7),
        WorldField("gender", "user", 3, 0.6),
        WorldField("country", "user", size(20, 150), 1.1),
        WorldField("city", "user", size(60, 5_000), 1.0),
        WorldField("occupation", "user", size(12, 100), 0.7),
        WorldField("device_model", "user", size(40, 2_000), 1.0),
        WorldField("age", "user", log_mean=3.4, log_std=0.35, missing=0.1),
        WorldField("tenure_days", "user", log_mean=5.0, log_std=1.2),
        WorldField("item_id", "item", items, 0.9),
        WorldField("author_id", "item", size(120, 50_000), 0.8),
        WorldField("category", "item", size(20, 100), 0.7),
        WorldField("topic", "item", size(40, 3_000), 0.9),
        WorldField("language", "item", size(6, 40), 1.2),
        WorldField("music_id", "item", size(60, 20_000), 1.0),
        WorldField("duration_s", "item", log_mean=3.5, log_std=0.8, missing=0.05),
        WorldField("item_age_days", "item", log_mean=2.5, log_std=1.0),
        WorldField("hour", "context", 24),
        WorldField("tab", "context", size(5, 15), 1.0),
        WorldField("network", "context", size(4, 6), 1.0),
        WorldField("app_version", "context", size(8, 40), 1.0),
        WorldField("position", "context", size(10, 20), 0.6),
    )


def wide_fields(num_fields: int, config: WorldConfig) -> tuple[WorldField, ...]:
    """Return the fields of a wide world; the domains have equally many, the first ones one more."""
    digits = len(str(num_fields // 3))
    counts = [(num_fields + rest) // 3 for rest in (2, 1, 0)]
    return tuple(
        WorldField(f"{domain}_{number:0{digits}d}", domain, config.num_ids, config.id_exponent)
        for domain, count in zip(DOMAINS, counts, strict=True)
        for number in range(count)
    )
