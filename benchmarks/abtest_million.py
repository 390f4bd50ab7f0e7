"""Time and memory of reading an experiment with a million units.

python benchmarks/abtest_million.py sqlite:////tmp/million.sqlite [--units 1000000]

The database makes the events itself: two exposures a unit, five outcomes, and two covariates. Rows do not leave it,
so the memory of the reading is that of its sums.
"""

from __future__ import annotations

import argparse
import resource
import time

from unimixer.abtest.analysis.reading import read_experiment
from unimixer.abtest.events import Events
from unimixer.abtest.specification import DAY_US, Experiment
from unimixer.cli import script
from unimixer.settings import parse

SPECIFICATION = {
    "name": "million",
    "arms": {"control": {}, "mixer": {}},
    "start": "2026-03-01",
    "end": "2026-03-15",
    "covariates": ["before", "age"],
    "metrics": [
        {"name": "ctr", "kind": "ratio", "event": "click", "denominator": "view"},
        {"name": "clicks", "kind": "mean", "event": "click"},
        {"name": "days", "kind": "active-days", "event": "view", "window_days": 7},
        {"name": "back", "kind": "retention", "event": "view", "day": 1},
    ],
}
_HASH = "(i * 2654435761 / 1024 % 1000)"
"""A number below 1,000 that looks random, by unit."""


def fill(events: Events, experiment: Experiment, units: int) -> None:
    """Make the events in the database."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {units - 1})"
    arm = f"CASE WHEN {_HASH} % 2 = 0 THEN 'control' ELSE 'mixer' END"
    first = f"{experiment.start_us} + {_HASH} * {10 * DAY_US // 1_000}"
    events.register(experiment, now=experiment.start_us - DAY_US)
    for look in range(2):
        _change(
            events,
            f"INSERT INTO exposures {numbers} SELECT 'million', 1, 'u' || i, {arm}, {first} + {look * DAY_US}, "
            f"'r' || i || '-{look}', 'b', 0.5, 0, '[]', '{{}}' FROM n",
        )
    for number, (event, day, chance) in enumerate(
        [("view", 0, 1000), ("click", 0, 300), ("view", 1, 600), ("click", 1, 200), ("view", 3, 400)]
    ):
        at = f"{first} + {day * DAY_US + 1_000_000}"
        chosen = f"(i * 40503 + {number * 17}) % 1000 < {chance}"
        request = f"'r' || i || '-{min(day, 1)}'"
        _change(
            events,
            f"INSERT INTO outcomes {numbers} SELECT 'e' || i || '-{number}', 'u' || i, '{event}', 1.0, {at}, {at}, "
            f"{request}, '1' FROM n WHERE {chosen}",
        )
    for name, value in (("before", "(i * 7919 % 97) / 10.0"), ("age", "(18 + i * 31 % 60) * 1.0")):
        _change(events, f"INSERT INTO covariates {numbers} SELECT 'million', 'u' || i, '{name}', {value} FROM n")


def _change(events: Events, statement: str) -> None:
    with events._database.transaction():
        events._database.change(statement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--units", type=int, default=1_000_000)
    options = parser.parse_args()
    experiment = parse(Experiment, SPECIFICATION, where="specification")
    events = Events(options.database, timeout=600)
    if not events.counts()["exposures"]:
        fill(events, experiment, options.units)
    print(events.counts())
    read_experiment(parse(Experiment, SPECIFICATION | {"name": "empty"}, where=""), events)  # loads the libraries
    before, start, processor = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.perf_counter(),
        time.process_time(),
    )
    reading = read_experiment(experiment, events, as_of=experiment.end_us + 10 * DAY_US)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{sum(reading.units.values()):,} units read in {time.perf_counter() - start:.1f} s "
        f"({time.process_time() - processor:.1f} s of this process); peak memory {peak / 1024:.0f} MiB, "
        f"{(peak - before) / 1024:.0f} MiB more than before"
    )
    for check in reading.checks:
        print(check.name, "passed" if check.passed else f"failed: {check.sentence}")
    for effect in reading.effects:
        print(effect.metric, effect.units, f"{effect.difference:+.5f}", f"{effect.low:+.5f} to {effect.high:+.5f}")


if __name__ == "__main__":
    script(main)
