"""Settings of a synthetic world, and the difficulty from which they follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from unimixer.errors import UnimixerError, check_choice, check_positive

DIFFICULTIES = {"easy": 0.0, "medium": 1 / 3, "hard": 2 / 3, "extreme": 1.0}
COMPONENTS = ("bias", "pairs", "triples", "quads", "sequence")
"""Parts of the true logit, in the order of :attr:`WorldConfig.shares`."""
EASY_SHARES = (0.26, 0.40, 0.03, 0.01, 0.30)
EXTREME_SHARES = (0.10, 0.25, 0.25, 0.15, 0.25)


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


@dataclass(frozen=True)
class WorldConfig:
    """Settings of a synthetic world; the difficulty determines all that are None.

    The days are fixed and the rows spread over them, so a longer log of the same seed has the same users, items and
    rules, and more impressions an hour; its first rows are not those of the shorter log.

    Raises:
        UnimixerError: for a value out of its range.

    Example:
        >>> WorldConfig(difficulty="hard", num_rows=1_000_000).num_pairs
        32
    """

    num_rows: int = 300_000
    seed: int = 0
    difficulty: str | float = "easy"
    """``easy``, ``medium``, ``hard``, ``extreme``, or a number from 0 (easy) to 1 (extreme)."""
    num_users: int | None = None
    num_items: int | None = None
    days: int = 14
    click_rate: float = 0.3
    like_rate: float = 0.05
    """Share of impressions with a like, which only a clicked one can have; hence below the click rate."""
    drift: float | None = None
    """Angle in radians by which the interactions have turned when the last day ends."""

    def __post_init__(self) -> None:
        for name in ("num_rows", "seed", "num_users", "num_items", "days"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UnimixerError(f"{name}={value!r} must be a whole number")
        for name in ("click_rate", "like_rate", "drift"):
            if not isinstance(getattr(self, name) or 0.0, (int, float)):
                raise UnimixerError(f"{name}={getattr(self, name)!r} must be a number")
        if isinstance(self.difficulty, str):
            check_choice("difficulty", self.difficulty, tuple(DIFFICULTIES))
        elif not isinstance(self.difficulty, (int, float)) or not 0 <= self.difficulty <= 1:
            raise UnimixerError(
                f"difficulty={self.difficulty} must lie between 0 and 1, or be one of {', '.join(DIFFICULTIES)}"
            )
        sizes = {"num_users": self.num_users, "num_items": self.num_items}
        given_sizes = {name: size for name, size in sizes.items() if size is not None}
        check_positive(num_rows=self.num_rows, days=self.days, **given_sizes)
        if not 0 <= self.seed < 1 << 62:
            raise UnimixerError(f"seed={self.seed} must be 0 or more, and below 2 ** 62")
        if not 0 < self.like_rate < self.click_rate < 1:
            raise UnimixerError(
                f"like_rate={self.like_rate} and click_rate={self.click_rate} must lie between 0 and 1, "
                "like_rate below click_rate, because only a clicked impression can have a like"
            )
        if self.drift is not None and not 0 <= self.drift < math.inf:
            raise UnimixerError(f"drift={self.drift} must be a finite angle in radians, 0 or more")

    @property
    def level(self) -> float:
        """The difficulty as a number from 0 to 1."""
        return DIFFICULTIES[self.difficulty] if isinstance(self.difficulty, str) else float(self.difficulty)

    @property
    def latent_dim(self) -> int:
        """Width of the latent vector of a field's value."""
        return self.between(4, 16)

    @property
    def num_pairs(self) -> int:
        """Interactions of two fields."""
        return self.between(10, 56)

    @property
    def num_triples(self) -> int:
        """Interactions of three fields."""
        return self.between(4, 48)

    @property
    def num_quads(self) -> int:
        """Interactions of four fields."""
        return self.between(2, 32)

    @property
    def widest_interaction(self) -> int:
        """Largest number of ids of a field in interactions; ids of larger fields have too few rows to be learned."""
        return self.between(100, 1_000_000)

    @property
    def total_drift(self) -> float:
        """The angle of :attr:`drift`, from the difficulty where it is not given."""
        return 0.3 + 0.9 * self.level if self.drift is None else self.drift

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of :data:`COMPONENTS` in the variance of the logit."""
        return tuple(
            easy + (extreme - easy) * self.level for easy, extreme in zip(EASY_SHARES, EXTREME_SHARES, strict=True)
        )

    def between(self, easy: int, extreme: int) -> int:
        """Interpolate geometrically between easy and extreme."""
        return round(easy * math.exp(self.level * math.log(extreme / easy)))


def world_fields(config: WorldConfig) -> tuple[WorldField, ...]:
    """Return all fields: users, then items, then the context of an impression."""
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
