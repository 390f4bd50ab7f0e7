"""Settings of a simulated experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from unimixer.errors import unknown
from unimixer.settings import Settings

Fault = Literal["skewed-split", "bots", "lost-events", "two-arms", "future-clocks", "early-outcomes"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Behavior(Settings):
    """Hold the parameters of the users: see :class:`~unimixer.closed_loop.environment.Environment`."""

    activity: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Daily probability of a visit of the median user with average satisfaction."""
    activity_spread: NonNegativeFloat = 1.0
    """Standard deviation of the users' log odds of a visit."""
    return_weight: NonNegativeFloat = 0.5
    """How much one unit of satisfaction adds to the log odds of a visit; 0 makes visits independent of the arms."""
    memory: Probability = 0.7
    """Weight that satisfaction keeps when one more day with a visit is experienced."""
    disappointment: NonNegativeFloat = 0.1
    """Cost of a click without a like, in likes."""
    repetition: NonNegativeFloat = 0.2
    """Cost of a list of equal items, in likes a shown item."""
    second_session: Probability = 0.3
    """Probability that a day with a visit has a second session."""


class SimulationConfig(Settings):
    """Describe a simulated experiment: its population, its arms, and what is broken on purpose."""

    users: PositiveInt = 20_000
    days: PositiveInt = 30
    """Days of the experiment."""
    warmup_days: NonNegativeInt = 14
    """Days before the experiment, on which all users see the control arm; the covariates come from them."""
    candidates: PositiveInt = 30
    """Items that are ranked in a session."""
    shown: Annotated[int, Field(ge=2)] = 5
    """Items at the top of the ranking that the user sees."""
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    arms: dict[str, str] = Field(default_factory=lambda: {"control": "popularity", "treatment": "noisy:0.5"})
    """Ranker of every arm: a run folder, or the name of a built-in ranker; the first arm is the control."""
    weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weights of the arms (default: equal)."""
    world: dict[str, Any] = Field(default_factory=dict)
    """Options of the synthetic world (default: those of the run that an arm names)."""
    behavior: Behavior = Field(default_factory=Behavior)
    experiment: dict[str, Any] = Field(default_factory=dict)
    """Keys of the experiment's specification that replace those of the simulation."""
    broken: tuple[Fault, ...] = ()
    """Faults that are put into the events."""

    @model_validator(mode="after")
    def _fit(self) -> SimulationConfig:
        if self.shown > self.candidates:
            raise ValueError(f"shown={self.shown} must be at most candidates={self.candidates}")
        if len(self.arms) < 2:
            raise ValueError("arms: a simulation compares two arms or more, for example control: popularity")
        for name in self.weights:
            if name not in self.arms:
                raise unknown("arm", name, self.arms)
        for name in ("stream", "soft_labels", "fields", "num_fields"):
            if name in self.world:
                raise ValueError(f"world.{name}: a simulation needs a world with users, items and histories")
        return self
