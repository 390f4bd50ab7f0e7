"""Specify an online experiment in YAML: arms, who takes part, when, and the metrics that judge it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt, StringConstraints, model_validator

from unimixer.abtest.canonical import canonical_text
from unimixer.errors import nearest
from unimixer.settings import Settings, load_yaml, parse

BUCKETS = 1_000
"""Number of buckets of a layer."""
WHOLE = 2**64
"""Number of values of a hash; a share of the units is a share of it."""
DAY_US = 86_400_000_000


def _day(value: Any) -> Any:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or len(value) != 10:
        raise ValueError("input should be a day such as 2026-03-01 (UTC)")
    return value


def _texts(values: Any) -> Any:
    if not isinstance(values, list | tuple) or not values:
        raise ValueError("input should be a list of at least one value")
    texts = [canonical_text(value) if isinstance(value, str | int | float) else None for value in values]
    if None in texts:
        raise ValueError("input should be a list of texts, numbers or booleans, none of them empty")
    return tuple(texts)


def _units(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    units = {canonical_text(unit): arm for unit, arm in values.items()}
    if None in units or len(units) != len(values):
        raise ValueError("input should be a mapping of units to arms, every unit once")
    return units


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Day = Annotated[date, BeforeValidator(_day)]
Share = Annotated[float, Field(ge=0, le=1)]


class Arm(Settings):
    """One treatment of an experiment."""

    weight: NonNegativeFloat = 1.0
    """Share of the units relative to the other arms; that of a shadow arm has no effect."""
    bundle: str | None = None
    """Folder of its bundle, or a link to one (default: the bundle of the server)."""
    shadow: bool = False
    """Whether the arm scores and logs requests without answering them."""


class Layer(Settings):
    """Reserve a range of the buckets of a layer: experiments with other ranges of the same layer share no unit."""

    name: Name
    buckets: tuple[int, int]
    """First bucket, and the first one after the range; a layer has the buckets 0 to 999."""

    @model_validator(mode="after")
    def _inside(self) -> Layer:
        first, end = self.buckets
        if not 0 <= first < end <= BUCKETS:
            raise ValueError(f"buckets={list(self.buckets)} must rise and lie within 0 and {BUCKETS:,}")
        return self


class Metric(Settings):
    """One outcome that arms are compared by."""

    name: Name
    kind: Literal["mean", "ratio", "active-days", "retention"]
    """Sum of values per unit, ratio of two sums, number of days with the event, or return on a day."""
    event: str
    denominator: str | None = None
    """Event below the line of a ratio."""
    day: PositiveInt | None = None
    """Day after the first exposure on which a unit must return."""
    window_days: PositiveInt | None = None
    """Days after the first exposure that count (default: until the end of the experiment)."""
    direction: Literal["up", "down"] = "up"
    """Direction of an improvement."""
    guardrail: bool = False
    """Whether the metric must not get worse, while it need not improve."""
    margin: NonNegativeFloat | None = None
    """Relative loss that a guardrail tolerates."""

    @model_validator(mode="after")
    def _consistent(self) -> Metric:
        for key, kind in (("denominator", "ratio"), ("day", "retention")):
            if (getattr(self, key) is None) == (self.kind == kind):
                raise ValueError(f"metric {self.name!r}: {key} goes with kind {kind!r}, and only with it")
        if self.kind == "active-days" and self.window_days is None:
            raise ValueError(f"metric {self.name!r}: kind 'active-days' needs window_days")
        if self.margin is not None and not self.guardrail:
            raise ValueError(f"metric {self.name!r}: margin goes with guardrail: true")
        return self


class Experiment(Settings):
    """Specify an experiment; every change gets a higher version, see :mod:`unimixer.abtest.changes`."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "arms": "variants treatments groups",
        "traffic": "ramp allocation rollout",
        "unit": "randomization_unit id",
        "reading": "sequential mode",
    }

    name: Name
    version: Annotated[int, Field(ge=1, lt=2**31)] = 1
    description: str = ""
    salt: str = ""
    """Text that the assignment depends on (default: the name)."""
    unit: str = "user_id"
    """Column whose values are assigned to arms."""
    arms: dict[Name, Arm]
    control: str = ""
    """Arm that the others are compared with (default: the first that is no shadow)."""
    traffic: Share = 1.0
    """Share of the eligible units that take part; raising it keeps every unit in its arm."""
    holdout: Share = 0.0
    """Share of the units that never take part; experiments of one layer hold out the same units."""
    layer: Layer | None = None
    targeting: dict[str, Annotated[tuple[str, ...], BeforeValidator(_texts)]] = Field(default_factory=dict)
    """Values that the context must have, by column."""
    overrides: Annotated[dict[str, str], BeforeValidator(_units)] = Field(default_factory=dict)
    """Arm of single units, for tests; they are not exposed and do not count."""
    start: Day
    """First day, from midnight (UTC)."""
    end: Day
    """First day after the experiment: it ends at this midnight (UTC)."""
    metrics: tuple[Metric, ...] = ()
    segments: tuple[str, ...] = ()
    """Columns of the context by whose values results are split."""
    covariates: tuple[str, ...] = ()
    """Values of units from before the start."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    correction: Literal["holm", "bh"] = "holm"
    reading: Literal["fixed", "sequential"] = "fixed"
    planned_units: PositiveInt = 10_000
    """Number of units of two arms at which sequential intervals are narrowest."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given, arms = {key: value for key, value in values.items() if value is not None}, values.get("arms")
        given["salt"] = given.get("salt") or given.get("name", "")
        if isinstance(arms, Mapping) and not given.get("control"):
            shadows = [name for name, arm in arms.items() if _is_shadow(arm)]
            given["control"] = next((name for name in arms if name not in shadows), "")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        names = list(self.weights)
        if self.control not in names:
            raise ValueError(f"control={self.control!r} is not an arm that answers{nearest(self.control, names)}")
        if len(self.arms) < 2:
            raise ValueError("arms: an experiment needs at least two arms, one may be a shadow")
        for name, weight in self.weights.items():
            if not weight > 0:
                raise ValueError(f"arms.{name}.weight={weight:g} must be greater than 0; leave the arm out")
        for unit, arm in self.overrides.items():
            if arm not in names:
                raise ValueError(f"overrides.{unit}={arm!r} is not an arm that answers{nearest(arm, names)}")
        if self.start >= self.end:
            raise ValueError(f"end={self.end} must be after start={self.start}")
        for key in ("metrics", "segments", "covariates"):
            listed = [getattr(one, "name", one) for one in getattr(self, key)]
            double = next((name for name in listed if listed.count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{key}: {double!r} is given twice; keep one")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the arms that answer, by name in alphabetical order: the order of a file has no effect."""
        return {name: arm.weight for name, arm in sorted(self.arms.items()) if not arm.shadow}

    @property
    def shadows(self) -> tuple[str, ...]:
        """The arms that score without answering."""
        return tuple(name for name, arm in self.arms.items() if arm.shadow)

    @cached_property
    def cut_points(self) -> tuple[tuple[int, str, float], ...]:
        """Ranges of the hash: the first value after that of an arm, the arm, and its share; exact on every machine."""
        weights = {name: Fraction(weight) for name, weight in self.weights.items()}
        total, end, points = sum(weights.values()), Fraction(0), []
        for name, weight in weights.items():
            end += weight / total
            points.append((int(end * WHOLE), name, float(weight / total)))
        return tuple(points)

    @cached_property
    def start_us(self) -> int:
        """The start in microseconds since 1970."""
        return _microseconds(self.start)

    @cached_property
    def end_us(self) -> int:
        """The end in microseconds since 1970."""
        return _microseconds(self.end)


def load_experiment(path: Path) -> Experiment:
    """Read a specification from YAML.

    Raises:
        UnimixerError: the first mistake, with its line.
    """
    return parse(Experiment, load_yaml(path), where=str(path))


def _microseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _is_shadow(arm: Any) -> bool:
    if isinstance(arm, Mapping):
        return str(arm.get("shadow")).lower() in ("true", "yes", "on", "1", "t", "y")  # as a boolean is read
    return bool(getattr(arm, "shadow", False))
