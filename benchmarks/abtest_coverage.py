"""How often intervals of simulated experiments are wrong: 500 A/A and 500 A/B experiments whose effect is known.

python benchmarks/abtest_coverage.py --record

Units arrive evenly over the days, each with its own rate of clicks, and click on every day from then on. All
experiments are read every day, by fixed and by sequential intervals. Takes some minutes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from unimixer.abtest.analysis.sequential import Sequential
from unimixer.abtest.analysis.statistics import Effect, compare, moments_of
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.io import atomic_file

RESULTS = Path(__file__).parent / "results" / "abtest-coverage.csv"
DAYS, UNITS, LIFT, ALPHA = 14, 2_000, 0.1, 0.05
METRICS: dict[str, dict[str, Any]] = {
    "mean": {"numerator": "clicks"},
    "mean, CUPED": {"numerator": "clicks", "covariates": ["before"]},
    "ratio": {"numerator": "clicks", "denominator": "views"},
}
FIRST = 1
"""First day that is read: every arm then has over 100 units."""
VIEWS, RATE, SPREAD = 3.0, 0.2, 0.4
"""Views a day, clicks a view, and the deviation of the logarithm of the rate over units."""


def arm(rng: np.random.Generator, lift: float) -> list[dict[str, Any]]:
    """The columns of one arm as they are after every day."""
    entry = rng.integers(DAYS, size=UNITS // 2)
    rate = RATE * np.exp(SPREAD * rng.normal(size=len(entry)) - SPREAD**2 / 2)
    before = rng.poisson(VIEWS * rate * DAYS)
    views = rng.poisson(VIEWS, size=(len(entry), DAYS)) * (np.arange(DAYS) >= entry[:, None])
    clicks = rng.poisson(views * rate[:, None] * (1 + lift))
    columns = []
    for day in range(DAYS):
        here = entry <= day
        columns.append(
            {
                "clicks": clicks[here, : day + 1].sum(axis=1),
                "views": views[here, : day + 1].sum(axis=1),
                "before": before[here],
            }
        )
    return columns


def truth(metric: str, day: int, lift: float) -> float:
    """The difference of the expected values after a day."""
    if metric == "ratio":
        return RATE * lift
    return RATE * VIEWS * lift * (day + 2) / 2  # units that came by then are (day + 2) / 2 days old on average


def experiments(count: int, lift: float, seed: int) -> Iterator[dict[str, list[Effect]]]:
    """Of every experiment and metric the sequential reading of every day, and the fixed one of the last day."""
    sequential = Sequential(planned=UNITS, level=ALPHA)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        sides = [[moments_of(day) for day in arm(rng, effect)[FIRST:]] for effect in (0.0, lift)]
        days = list(zip(*sides, strict=True))
        yield {
            metric: [compare(*day, **columns, sequential=sequential) for day in days] + [compare(*days[-1], **columns)]
            for metric, columns in METRICS.items()
        }


def fixed(effect: Effect) -> Effect:
    """The same effect with the fixed interval: with so many units Welch's t is the normal distribution."""
    reach = float(stats.norm.isf(ALPHA / 2)) * effect.deviation
    return replace(effect, low=effect.difference - reach, high=effect.difference + reach)


def covers(effect: Effect, value: float) -> bool:
    return effect.low <= value <= effect.high


def measure(count: int, lift: float, seed: int = 0) -> list[dict[str, Any]]:
    """Count the experiments whose intervals are wrong; one row a metric and a way of reading."""
    names = ("fixed, at the end", "fixed, every day", "sequential, every day")
    wrong: dict[tuple[str, str], int] = {(metric, name): 0 for metric in METRICS for name in names}
    found = dict(wrong)
    narrowed = []
    for readings in experiments(count, lift, seed):
        for metric, (*always, last) in readings.items():
            true = [truth(metric, day, lift) for day in range(FIRST, DAYS)]
            kinds = (
                (names[0], [last], true[-1:]),
                (names[1], list(map(fixed, always)), true),
                (names[2], always, true),
            )
            for name, effects, values in kinds:
                wrong[metric, name] += not all(map(covers, effects, values))
                found[metric, name] += any(not covers(effect, 0.0) for effect in effects)
            if metric == "mean, CUPED":
                narrowed.append(last.narrowed)
    return [
        {
            "lift": lift,
            "metric": metric,
            "reading": name,
            "experiments": count,
            "wrong": wrong[metric, name],
            "found": found[metric, name],
            "narrowed": float(np.mean(narrowed)) if metric == "mean, CUPED" else 1.0,
        }
        for metric, name in wrong
    ]


def predicted_factor(seed: int = 0, size: int = 400) -> float:
    """The factor sqrt(1 - rho^2) that the correlation of clicks and clicks before predicts."""
    rng = np.random.default_rng(seed)
    whole = [arm(rng, 0.0)[-1] for _ in range(size)]
    clicks, before = (np.concatenate([one[name] for one in whole]) for name in ("clicks", "before"))
    return float(np.sqrt(1 - np.corrcoef(clicks, before)[0, 1] ** 2))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, with the range in which 99 of 100 counts at the level lie."""
    lines = []
    for row in rows:
        low, high = stats.binom.interval(0.99, row["experiments"], ALPHA)
        kind = "A/B" if row["lift"] else "A/A"
        share = row["wrong"] / row["experiments"]
        lines.append(
            [
                kind,
                row["metric"],
                row["reading"],
                f"{row['wrong']} of {row['experiments']} ({share:.1%})",
                f"{low:.0f} to {high:.0f}",
                f"{row['found'] / row['experiments']:.1%}",
            ]
        )
    columns = ["experiments", "metric", "reading", "an interval leaves out the truth", "expected at 5%", "effect found"]
    return markdown(columns, lines, left=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=500)
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    rows = [row for lift in (0.0, LIFT) for row in measure(options.experiments, lift, seed=int(10 * lift))]
    factor = predicted_factor()
    print(table(rows))
    cuped = [row["narrowed"] for row in rows if row["metric"] == "mean, CUPED"]
    print(f"\nCUPED narrows intervals to {cuped[0]:.4f} (A/A) and {cuped[-1]:.4f} (A/B); predicted {factor:.4f}")
    if options.record:
        with atomic_file(RESULTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=[*rows[0], "predicted"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {**row, "narrowed": f"{row['narrowed']:.6f}", "predicted": f"{factor:.6f}"} for row in rows
            )
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    script(main)
