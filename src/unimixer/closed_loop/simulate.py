"""Run a simulated experiment: the population under every arm, the experiment that reveals a part of it, the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from unimixer.abtest.assignment import Assignment, assign
from unimixer.abtest.specification import Experiment
from unimixer.closed_loop.broken import broken
from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.environment import Environment, Population
from unimixer.closed_loop.event_rows import COVARIATES, EventRows, covariate_rows, exposure_rows, outcome_rows
from unimixer.closed_loop.rankers import BUILT_IN, Ranker, built_in_ranker
from unimixer.closed_loop.runs import RunRanker, world_options
from unimixer.closed_loop.sessions import Visits
from unimixer.closed_loop.truth import ArmFacts, TrueEffect, arm_facts, true_effects
from unimixer.errors import UnimixerError
from unimixer.progress import progress_bar
from unimixer.settings import parse

LONGEST_WINDOW, RETURN_DAY = 30, 7
"""Days that the default metrics need after the first exposure, where the experiment is long enough."""


@dataclass(frozen=True)
class Simulation:
    """A simulated experiment and the truth about it."""

    experiment: Experiment
    rows: EventRows
    effects: tuple[TrueEffect, ...]
    arms: tuple[ArmFacts, ...]
    as_of: int
    """End of the events, in microseconds since 1970."""
    agreement: float | None = None
    """Share of the lists of the server that equal those computed without it; None where no server took part."""


@dataclass(frozen=True)
class PotentialOutcomes:
    """The population before the experiment, and under every arm of it."""

    before: Visits | None
    population: Population
    """At the start of the experiment."""
    visits: dict[str, Visits]
    arms: tuple[ArmFacts, ...]

    def reveal(self, assignments: Sequence[Assignment], control: str) -> tuple[Visits, Visits]:
        """Return the sessions that happen if each user sees the assigned arm, and those of users who take part.

        The others see the control.
        """
        seen = [assignment.arm or control for assignment in assignments]
        parts, exposed = [], torch.tensor([assignment.exposed for assignment in assignments])
        for arm, visits in self.visits.items():
            own = torch.tensor([name == arm for name in seen])
            parts.append(visits.take(own[visits.user].nonzero().squeeze(1)))
        happened = Visits.join(parts)
        happened = happened.take(happened.time.argsort(stable=True))
        return happened, happened.take(exposed[happened.user].nonzero().squeeze(1))


def simulate(config: SimulationConfig) -> Simulation:
    """Simulate an experiment without a server: each user sees one arm, and the truth is known.

    Raises:
        UnimixerError: an arm names no ranker and no run, or the settings do not fit the world.
    """
    environment = make_environment(config)
    experiment = make_experiment(config, environment)
    outcomes = potential_outcomes(environment, config.arms)
    assignments = [assign(experiment, user) for user in range(config.users)]
    happened, exposed = outcomes.reveal(assignments, experiment.control)
    rows = EventRows(
        exposure_rows(exposed, experiment, assignments, dict(config.arms)),
        outcome_rows(happened, experiment),
        covariate_rows(outcomes.before, experiment, sorted(set(exposed.user.tolist()))),
    )
    return Simulation(
        experiment=experiment,
        rows=broken(rows, experiment, config.broken),
        effects=tuple(true_effects(outcomes.visits, experiment, experiment.end_us)),
        arms=outcomes.arms,
        as_of=experiment.end_us,
    )


def make_environment(config: SimulationConfig) -> Environment:
    """Make the world of the runs that the arms name, or of the settings where none is a run.

    Raises:
        UnimixerError: two runs were trained on different worlds, or an option contradicts theirs.
    """
    worlds = {text: world_options(Path(text)) for text in config.arms.values() if is_run(text)}
    options: dict[str, Any] = dict(config.world)
    for text, known in worlds.items():
        for name in {*options, *known}:
            if options and options.get(name) != known.get(name):
                raise UnimixerError(
                    f"{text}: its world has {name}={known.get(name)}, and another arm or the settings say "
                    f"{options.get(name)}; simulate in the world that all runs were trained on"
                )
        options = known
    return Environment(config, options)


def make_experiment(
    config: SimulationConfig, environment: Environment, bundles: Mapping[str, str] | None = None
) -> Experiment:
    """Return the specification of a simulated experiment; ``bundles`` are those of its arms on a server."""
    start = datetime.fromtimestamp(environment.first_time / 1_000, tz=UTC).date()
    window = max(1, min(LONGEST_WINDOW, config.days // 2 - 1))
    back = min(RETURN_DAY, window)
    values = {
        "name": "simulation",
        "arms": {
            arm: {"weight": config.weights.get(arm, 1.0), "bundle": (bundles or {}).get(arm)} for arm in config.arms
        },
        "start": str(start),
        "end": str(start + timedelta(days=config.days)),
        "metrics": [
            {"name": "click_rate", "kind": "ratio", "event": "click", "denominator": "impression"},
            {"name": f"active_days_{window}", "kind": "active-days", "event": "visit", "window_days": window},
            {"name": f"return_day_{back}", "kind": "retention", "event": "visit", "day": back},
        ],
        "covariates": list(COVARIATES) if config.warmup_days else [],
        **config.experiment,
    }
    experiment = parse(Experiment, values, where="experiment")
    if experiment.start != start:
        raise UnimixerError(
            f"experiment.start={experiment.start}: the users of a simulation arrive from {start} on; leave start out"
        )
    if experiment.targeting:
        raise UnimixerError("experiment.targeting: a simulation shows its arms to all users; leave targeting out")
    if set(experiment.arms) != set(config.arms) or experiment.shadows:
        raise UnimixerError("experiment.arms: the arms of a simulation are those of the key arms; leave them out here")
    return experiment


def potential_outcomes(environment: Environment, arms: Mapping[str, str]) -> PotentialOutcomes:
    """Simulate the whole population under every arm, after days on which all see the first one."""
    config = environment.config
    rankers = {arm: make_ranker(text, environment) for arm, text in arms.items()}
    control, *others = rankers.values()
    population, visits, facts = environment.start(), {}, []
    with progress_bar("simulating", config.warmup_days + len(rankers) * config.days, unit="days") as advance:
        warm_up = range(-config.warmup_days, 0)
        before = environment.run(control, counted(warm_up, advance), population, others) if warm_up else None
        first_day = environment.sessions(0, population)
        for arm, ranker in rankers.items():
            scores = ranker.scores(first_day)
            visits[arm] = environment.run(ranker, counted(range(config.days), advance), population.copy())
            if not len(visits[arm]):
                raise UnimixerError(
                    f"arms.{arm}: none of {config.users:,} users visits in {config.days:,} days; simulate more users "
                    "or days, or raise behavior.activity"
                )
            facts.append(arm_facts(arm, arms[arm], scores, first_day, visits[arm], config.users))
    return PotentialOutcomes(before, population, visits, tuple(facts))


def make_ranker(text: str, environment: Environment) -> Ranker:
    """Make a ranker: a built-in one by its name, or a run by its folder."""
    if is_run(text):
        return RunRanker(Path(text))
    return built_in_ranker(text, environment.world, environment.config.seed)


def is_run(text: str) -> bool:
    """Return whether an arm names a run folder."""
    return text.partition(":")[0] not in BUILT_IN and Path(text).is_dir()


def counted(days: range, advance: Callable[[int], None]) -> Iterator[int]:
    """Iterate over days and report each one that is over."""
    for day in days:
        yield day
        advance(1)
