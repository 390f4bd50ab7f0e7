"""Put the reading of a simulated experiment beside the truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from unimixer.abtest.analysis.reading import Reading, read_experiment
from unimixer.abtest.analysis.statistics import Effect
from unimixer.abtest.events import Events
from unimixer.closed_loop.simulate import Simulation
from unimixer.closed_loop.truth import TrueEffect


@dataclass(frozen=True)
class Comparison:
    """A true effect, and the one that the reading found; None while a check fails."""

    true: TrueEffect
    read: Effect | None

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the true effect."""
        return None if self.read is None else self.read.low <= self.true.difference <= self.read.high


@dataclass(frozen=True)
class Result:
    """A simulated experiment, its reading, and the truth."""

    simulation: Simulation
    reading: Reading
    comparisons: tuple[Comparison, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain values; what is not known, such as a mean over no user, is None."""
        values = {
            "arms": [asdict(one) for one in self.simulation.arms],
            "effects": [
                {
                    **asdict(one.true),
                    "difference": one.true.difference,
                    "read": None if one.read is None else asdict(one.read),
                    "covered": one.covered,
                }
                for one in self.comparisons
            ],
            "agreement": self.simulation.agreement,
            "reading": self.reading.as_json(),
        }
        return {name: _known(value) for name, value in values.items()}


def _known(value: Any) -> Any:
    """Replace numbers that are NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def read_simulation(simulation: Simulation, events: Events) -> Result:
    """Write the events of a simulation, read its experiment at the end, and compare."""
    simulation.rows.write(events, simulation.experiment)
    end = simulation.as_of  # the days of a long simulation may lie in the future
    reading = read_experiment(simulation.experiment, events, as_of=end, now=end)
    effects = {(effect.metric, effect.arm): effect for effect in reading.effects}
    comparisons = tuple(Comparison(true, effects.get((true.metric, true.arm))) for true in simulation.effects)
    return Result(simulation, reading, comparisons)
