"""Settings of a synthetic world: given, or derived from its difficulty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from unimixer.errors import UnimixerError, check_choice, check_positive

DIFFICULTIES = {"easy": 0.0, "medium": 1 / 3, "hard": 2 / 3, "extreme": 1.0}
COMPONENTS = ("bias", "pairs", "triples", "quads", "sequence")
"""Parts of the true logit, in the order of :attr:`WorldConfig.shares`."""
EASY_SHARES = (0.26, 0.40, 0.03, 0.01, 0.30)
EXTREME_SHARES = (0.10, 0.25, 0.25, 0.15, 0.25)
TASKS = ("click", "like")
MAX_FIELDS = 300
WIDE_ONLY = ("num_ids", "id_exponent", "num_groups", "interacting_pairs", "validation_rows", "test_rows")
"""Settings that only a world with ``num_fields`` has."""


def from_difficulty() -> Any:
    """Declare a setting that follows from the difficulty where it is not given."""
    return field(default=None)


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
    """Share of impressions with a like, which only a clicked one can have; 0 leaves the like out."""
    drift: float | None = None
    """Angle in radians by which the interactions have turned when the last day ends; 0 in a wide world."""
    logit_std: float = 1.7
    """Standard deviation of a task's true logit; the best reachable AUC follows from it."""
    latent_dim: int = from_difficulty()
    """Width of the latent vector of a field's value."""
    num_pairs: int = from_difficulty()
    """Interactions of two fields."""
    num_triples: int = from_difficulty()
    """Interactions of three fields."""
    num_quads: int = from_difficulty()
    """Interactions of four fields."""
    shares: tuple[float, ...] = from_difficulty()
    """Shares of :data:`COMPONENTS` in the variance of the logit; they are scaled to a sum of 1."""
    num_fields: int | None = None
    """Makes the world wide: this many categorical fields, and neither numbers nor histories."""
    num_ids: int = 64
    """Ids of every field of a wide world."""
    id_exponent: float = 0.0
    """Id r of a wide world has a frequency near ``r ** -id_exponent``; 0 makes all ids equally frequent."""
    num_groups: int | None = None
    """Cuts the fields of a wide world into groups of consecutive fields; an interaction joins two groups."""
    interacting_pairs: int | tuple[tuple[int, int], ...] | None = None
    """How many pairs of groups interact, or which (default: all)."""
    validation_rows: int | None = None
    """Rows of the validation part of a wide world (default: a tenth)."""
    test_rows: int | None = None
    """Rows of the test part of a wide world (default: a tenth)."""

    def __post_init__(self) -> None:
        self._check_types()
        if isinstance(self.difficulty, str):
            check_choice("difficulty", self.difficulty, tuple(DIFFICULTIES))
        elif not isinstance(self.difficulty, (int, float)) or not 0 <= self.difficulty <= 1:
            raise UnimixerError(
                f"difficulty={self.difficulty} must lie between 0 and 1, or be one of {', '.join(DIFFICULTIES)}"
            )
        self._derive()
        sizes = {name: getattr(self, name) for name in ("num_users", "num_items", "num_fields", "num_groups")}
        given_sizes = {name: size for name, size in sizes.items() if size is not None}
        check_positive(
            num_rows=self.num_rows, days=self.days, latent_dim=self.latent_dim, num_ids=self.num_ids, **given_sizes
        )
        if not 0 <= self.seed < 1 << 62:
            raise UnimixerError(f"seed={self.seed} must be 0 or more, and below 2 ** 62")
        if not 0 <= self.like_rate < self.click_rate < 1:
            raise UnimixerError(
                f"like_rate={self.like_rate} and click_rate={self.click_rate} must lie between 0 and 1, "
                "like_rate below click_rate, because only a clicked impression can have a like"
            )
        if self.drift is not None and not 0 <= self.drift < math.inf:
            raise UnimixerError(f"drift={self.drift} must be a finite angle in radians, 0 or more")
        if not 0 < self.logit_std < math.inf:
            raise UnimixerError(f"logit_std={self.logit_std} must be a finite number greater than 0")
        for name in ("num_pairs", "num_triples", "num_quads"):
            if getattr(self, name) < 0:
                raise UnimixerError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.num_fields is None:
            self._check_narrow()
        else:
            self._check_wide()

    def _check_types(self) -> None:
        whole = ("num_rows", "seed", "num_users", "num_items", "days", "latent_dim", "num_pairs", "num_triples")
        for name in (*whole, "num_quads", "num_fields", "num_ids", "num_groups", "validation_rows", "test_rows"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UnimixerError(f"{name}={value!r} must be a whole number")
        for name in ("click_rate", "like_rate", "drift", "logit_std", "id_exponent"):
            if not isinstance(getattr(self, name) or 0.0, (int, float)):
                raise UnimixerError(f"{name}={getattr(self, name)!r} must be a number")

    def _derive(self) -> None:
        """Fill in what follows from the difficulty; a wide world has no sequence, hence none of its share."""
        counts = {"latent_dim": (4, 16), "num_pairs": (10, 56), "num_triples": (4, 48), "num_quads": (2, 32)}
        for name, (easy, extreme) in counts.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.between(easy, extreme))
        object.__setattr__(self, "shares", self._normalised() if self.shares is not None else self._derived_shares())

    def _derived_shares(self) -> tuple[float, ...]:
        shares = tuple(
            easy + (extreme - easy) * self.level for easy, extreme in zip(EASY_SHARES, EXTREME_SHARES, strict=True)
        )
        if self.num_fields is None:
            return shares
        known = sum(shares[:-1])
        return (*(share / known for share in shares[:-1]), 0.0)

    def _normalised(self) -> tuple[float, ...]:
        try:
            parts = self.shares.split(",") if isinstance(self.shares, str) else self.shares
            shares = tuple(float(share) for share in parts)
        except (TypeError, ValueError):
            shares = ()
        if len(shares) != len(COMPONENTS) or not all(0 <= s < math.inf for s in shares) or not sum(shares) > 0:
            raise UnimixerError(
                f"shares={self.shares!r} must be {len(COMPONENTS)} numbers, 0 or more, one of them above 0: "
                f"the shares of {', '.join(COMPONENTS)} in the variance of the logit"
            )
        return tuple(share / sum(shares) for share in shares)

    def _check_narrow(self) -> None:
        defaults = WorldConfig.__dataclass_fields__
        for name in WIDE_ONLY:
            if getattr(self, name) != defaults[name].default:
                raise UnimixerError(f"{name}={getattr(self, name)} needs a wide world; give num_fields too")

    def _check_wide(self) -> None:
        assert self.num_fields is not None
        if not 3 <= self.num_fields <= MAX_FIELDS:
            raise UnimixerError(
                f"num_fields={self.num_fields} must lie between 3 and {MAX_FIELDS}: user, item and context have fields"
            )
        if self.shares[-1]:
            raise UnimixerError(
                f"num_fields={self.num_fields}: a wide world has no history, so the share of the sequence must be 0; "
                f"it is {self.shares[-1]:.3g}"
            )
        if not 0 <= self.id_exponent < math.inf:
            raise UnimixerError(f"id_exponent={self.id_exponent} must be a finite number, 0 or more")
        if self.days < 3:
            raise UnimixerError(
                f"days={self.days} must be 3 or more: a wide world validates and tests on days of their own"
            )
        train, validation, test = self.part_rows
        if min(validation, test, train) < 1:
            raise UnimixerError(
                f"validation_rows={validation} and test_rows={test} must be 1 or more and leave training rows; "
                f"num_rows is {self.num_rows}"
            )
        if self.num_groups is None:
            if self.interacting_pairs is not None:
                raise UnimixerError("interacting_pairs needs groups of fields; give num_groups too")
        elif self.num_groups < 2 or self.num_fields % self.num_groups:
            raise UnimixerError(
                f"num_groups={self.num_groups} must be 2 or more and divide num_fields={self.num_fields}, "
                "so that all groups have equally many fields"
            )
        else:
            object.__setattr__(self, "interacting_pairs", parse_pairs(self.interacting_pairs, self.num_groups))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The outcomes of an impression."""
        return TASKS if self.like_rate else TASKS[:1]

    @property
    def rates(self) -> tuple[float, float]:
        """Rates of click and like; a like that is left out is drawn at some rate, and dropped."""
        return self.click_rate, self.like_rate or self.click_rate / 2

    @property
    def part_rows(self) -> tuple[int, int, int]:
        """Rows of the training, validation and test part of a wide world."""
        tenth = max(1, self.num_rows // 10)
        validation = tenth if self.validation_rows is None else self.validation_rows
        test = tenth if self.test_rows is None else self.test_rows
        return self.num_rows - validation - test, validation, test

    @property
    def level(self) -> float:
        """The difficulty as a number from 0 to 1."""
        return DIFFICULTIES[self.difficulty] if isinstance(self.difficulty, str) else float(self.difficulty)

    @property
    def widest_interaction(self) -> int:
        """Largest number of ids of a field in interactions; ids of larger fields have too few rows to be learned."""
        return self.between(100, 1_000_000)

    @property
    def total_drift(self) -> float:
        """The angle of :attr:`drift`, from the difficulty where it is not given."""
        derived = 0.3 + 0.9 * self.level if self.num_fields is None else 0.0
        return derived if self.drift is None else self.drift

    def between(self, easy: int, extreme: int) -> int:
        """Interpolate geometrically between easy and extreme."""
        return round(easy * math.exp(self.level * math.log(extreme / easy)))


def parse_pairs(value: Any, num_groups: int) -> int | tuple[tuple[int, int], ...]:
    """Check how many pairs of groups interact, or which: ``12``, ``"0-5,3-7"`` or pairs of numbers.

    Raises:
        UnimixerError: too many pairs, or a pair that is none of two different groups.
    """
    most = num_groups * (num_groups - 1) // 2
    if value is None:
        return most
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= most:
            raise UnimixerError(
                f"interacting_pairs={value} must lie between 1 and {most}, the pairs of {num_groups} groups"
            )
        return value
    written = value.split(",") if isinstance(value, str) else value
    try:
        ends = [[int(n) for n in (p.split("-") if isinstance(p, str) else p)] for p in written]
        pairs = tuple(sorted({(min(a, b), max(a, b)) for a, b in ends}))
    except (TypeError, ValueError):
        pairs = ()
    if not pairs or not all(0 <= a < b < num_groups for a, b in pairs):
        raise UnimixerError(
            f"interacting_pairs={value!r} must be a number, or pairs of different groups from 0 to {num_groups - 1} "
            "such as 0-5,3-7"
        )
    return pairs
