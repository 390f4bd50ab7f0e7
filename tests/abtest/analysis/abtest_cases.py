"""Events of a small experiment, made from columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.abtest.events import Events
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.abtest.specification import DAY_US, Experiment
from unimixer.settings import parse

HOUR = 3_600_000_000


def experiment(**changes: Any) -> Experiment:
    """Two arms, two weeks, CTR decides."""
    values: dict[str, Any] = {
        "name": "ranker",
        "arms": {"control": {}, "mixer": {}},
        "start": "2026-03-01",
        "end": "2026-03-15",
        "metrics": [
            {"name": "ctr", "kind": "ratio", "event": "click", "denominator": "view"},
            {"name": "long views", "kind": "mean", "event": "long"} | {"name": "long_views"},
        ],
    }
    return parse(Experiment, values | changes, where="experiment")


def simulate(
    plan: Experiment,
    *,
    units: int = 1_200,
    days: int = 14,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[list[Exposure], list[Outcome]]:
    """Let units arrive evenly over the days, and each answer one request a day from then on.

    Args:
        plan: the specification.
        units: how many.
        days: of the experiment so far.
        rates: of clicks by arm (default: 0.2 everywhere).
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    arms = list(plan.weights)
    shares = np.array(list(plan.weights.values())) / sum(plan.weights.values())
    exposures, outcomes = [], []
    chosen = rng.choice(len(arms), size=units, p=shares)
    for number in range(units):
        arm, first = arms[chosen[number]], int(rng.integers(days))
        rate = (rates or {}).get(arm, 0.2)
        base = float(rng.beta(20 * rate, 20 * (1 - rate)))
        country = "de" if number % 3 else "fr"
        for day in range(first, days):
            if day > first and rng.random() < 0.6:
                continue
            time = plan.start_us + day * DAY_US + int(rng.integers(20 * HOUR))
            request = f"r{number}-{day}"
            context = json.dumps({"country": country})
            exposures.append(
                Exposure(plan.name, plan.version, f"u{number}", arm, time, request, "b", 0.5, 0, "[]", context)
            )
            for place in range(3):
                at = time + 1_000_000 * (place + 1)
                name = f"{request}-{place}"
                outcomes.append(Outcome(f"{name}-v", f"u{number}", "view", 1.0, at, at, request, str(place)))
                if rng.random() < base:
                    outcomes.append(
                        Outcome(f"{name}-c", f"u{number}", "click", 1.0, at + 1, at + 1, request, str(place))
                    )
                    if rng.random() < 0.3:
                        outcomes.append(
                            Outcome(f"{name}-l", f"u{number}", "long", 1.0, at + 2, at + 2, request, str(place))
                        )
    return exposures, outcomes


OPENED: list[Events] = []
"""Databases that tests opened; a fixture closes them."""


def database(
    path: Path | str,
    plan: Experiment,
    exposures: list[Exposure],
    outcomes: list[Outcome],
    covariates: list[Covariate] = [],  # noqa: B006
) -> Events:
    """Write events into a new database; the end of the test closes it."""
    events = Events(path if isinstance(path, str) else f"sqlite:///{path}")
    OPENED.append(events)
    events.register(plan, now=plan.start_us - DAY_US)
    events.add_exposures(exposures)
    events.add_outcomes(outcomes)
    events.add_covariates(covariates)
    return events
