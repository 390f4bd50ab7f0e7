"""Read 78 real experiments at every checkpoint, by fixed and by sequential intervals.

python benchmarks/asos.py asos_digital_experiments_dataset.csv --record --picture docs/asos.png

The data are the ASOS Digital Experiments Dataset (Liu, Cardoso, Couturier and McCoy, NeurIPS 2021, CC BY 4.0,
doi 10.17605/OSF.IO/64JSB): cumulative counts, means and variances of a control and a variant. A false alarm is an
effect that is called at a checkpoint, while the fixed test at the last one finds none. Takes about a minute.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.abtest.analysis.sequential import LEAST_UNITS, Sequential, split_p_value
from unimixer.abtest.analysis.statistics import Effect, compare, moments
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.io import atomic_file

RESULTS = Path(__file__).parent / "results" / "asos.csv"
ALPHA = 0.05
NAMES = {1: "binary", 2: "count 1", 3: "count 2", 4: "real"}
Readings = list[tuple[float, Effect, Effect]]


@dataclass(frozen=True)
class Trajectory:
    """One metric of one variant: when each way of reading first called an effect, as shares of the time."""

    experiment: str
    variant: int
    metric: str
    checkpoints: int
    units: int
    fixed_ever: float | None
    fixed_end: bool
    sequential_ever: float | None
    sequential_end: bool
    split_p: float


def readings(rows: pl.DataFrame) -> Readings:
    """The fixed and the sequential reading of every checkpoint; the plan is the number of units at the end."""
    last = rows.row(-1, named=True)
    sequential = Sequential(planned=int(last["count_c"] + last["count_t"]), level=ALPHA)
    found = []
    for row in rows.iter_rows(named=True):
        if min(row["count_c"], row["count_t"]) < LEAST_UNITS:
            continue
        arms = [
            moments(int(row[f"count_{one}"]), {"y": row[f"mean_{one}"]}, {("y", "y"): row[f"variance_{one}"]})
            for one in "ct"
        ]
        pair = [compare(*arms, numerator="y", alpha=ALPHA, sequential=kind) for kind in (None, sequential)]
        found.append((float(row["time_since_start"]), pair[0], pair[1]))
    return found


def called(effect: Effect) -> bool:
    """Whether the interval leaves out 0."""
    return not effect.low <= 0 <= effect.high


def study(data: pl.DataFrame) -> tuple[list[Trajectory], dict[tuple[str, int, str], Readings]]:
    """Read all trajectories."""
    keys = ["experiment_id", "variant_id", "metric_id"]
    trajectories, kept = [], {}
    for (name, variant, metric), rows in data.sort(*keys, "time_since_start").group_by(keys, maintain_order=True):
        looks = readings(rows)
        if not looks:
            continue
        end, last = looks[-1][0], rows.row(-1, named=True)
        ever = [next((time / end for time, *pair in looks if called(pair[side])), None) for side in (0, 1)]
        key = (str(name), int(str(variant)), NAMES[int(str(metric))])
        kept[key] = looks
        trajectories.append(
            Trajectory(
                *key,
                checkpoints=len(looks),
                units=int(last["count_c"] + last["count_t"]),
                fixed_ever=ever[0],
                fixed_end=called(looks[-1][1]),
                sequential_ever=ever[1],
                sequential_end=called(looks[-1][2]),
                split_p=split_p_value([int(last["count_c"]), int(last["count_t"])], [0.5, 0.5]),
            )
        )
    return trajectories, kept


def table(trajectories: Sequence[Trajectory]) -> str:
    """Counts by metric, and of all."""
    lines = []
    for name in [*NAMES.values(), "all"]:
        mine = [one for one in trajectories if name in (one.metric, "all")]
        fixed = [one for one in mine if one.fixed_ever is not None]
        always = [one for one in mine if one.sequential_ever is not None]
        lines.append(
            [
                name,
                len(mine),
                sum(one.fixed_end for one in mine),
                len(fixed),
                sum(not one.fixed_end for one in fixed),
                len(always),
                sum(not one.fixed_end for one in always),
            ]
        )
    columns = [
        "metric",
        "trajectories",
        "fixed, at the end",
        "fixed, at some look",
        "of these gone at the end",
        "sequential, at some look",
        "of these gone at the end",
    ]
    return markdown(columns, lines)


def draw(trajectories: Sequence[Trajectory], kept: dict[tuple[str, int, str], Readings], path: Path) -> None:
    """Draw the share called so far over time, and the trajectory with the most false alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = [step / 200 for step in range(201)]
    total = len(trajectories)
    for name, color, attribute in (
        ("fixed, at every look", "#d97706", "fixed_ever"),
        ("sequential, at every look", "#2563eb", "sequential_ever"),
    ):
        first = [getattr(one, attribute) for one in trajectories]
        left.plot(
            times,
            [100 * sum(v is not None and v <= at for v in first) / total for at in times],
            color=color,
            label=name,
        )
    left.axhline(
        100 * sum(one.fixed_end for one in trajectories) / total,
        color="gray",
        linestyle=":",
        label="fixed, once at the end",
    )
    left.set(
        xlabel="share of the experiment's time", ylabel="trajectories with an effect called so far, %", ylim=(0, None)
    )
    left.legend(fontsize="small")
    alarms = {
        key: sum(called(fixed) for _, fixed, _ in looks)
        for key, looks in kept.items()
        if not called(looks[-1][1]) and not any(called(always) for *_, always in looks)
    }
    key = max(alarms, key=alarms.__getitem__)
    days = [time for time, *_ in kept[key]]
    for side, color in ((2, "#2563eb"), (1, "#d97706")):
        ends = [
            (100 * look[side].low / look[side].control, 100 * look[side].high / look[side].control)
            for look in kept[key]
        ]
        right.fill_between(days, *zip(*ends, strict=True), color=color, alpha=0.3, linewidth=0)
    right.plot(days, [100 * fixed.difference / fixed.control for _, fixed, _ in kept[key]], color="#57534e")
    right.axhline(0, color="black", linewidth=0.8)
    right.set(
        title=f"experiment {key[0]}, {key[2]}",
        xlabel="days",
        ylabel="difference to the control, %",
        ylim=_limits(kept[key]),
    )
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _limits(looks: Readings) -> tuple[float, float]:
    """The range of the fixed intervals after the first looks."""
    later = [fixed for _, fixed, _ in looks[len(looks) // 10 :]]
    return (
        1.6 * 100 * min(fixed.low / fixed.control for fixed in later),
        1.6 * 100 * max(fixed.high / fixed.control for fixed in later),
    )


def summary(trajectories: Sequence[Trajectory]) -> str:
    """The same in a sentence."""
    alarms = [one for one in trajectories if one.fixed_ever is not None and not one.fixed_end]
    quiet = sum(one.sequential_ever is None for one in alarms)
    pairs = {(one.experiment, one.variant): one.split_p for one in trajectories}
    skewed = sum(p < 0.001 for p in pairs.values())
    return (
        f"fixed peeking gave {len(alarms)} false alarms, sequential reading did not in {quiet} of these; "
        f"{skewed} of {len(pairs)} pairs of arms do not fit a split of one half (p < 0.001)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    data = pl.read_csv(options.data)
    known = data.drop_nulls()
    print(f"{len(data) - len(known):,} of {len(data):,} checkpoints have no variance and are left out")
    trajectories, kept = study(known)
    print(table(trajectories))
    print(f"\n{summary(trajectories)}")
    if options.record:
        rows: list[dict[str, Any]] = [asdict(one) for one in trajectories]
        with atomic_file(RESULTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    if options.picture is not None:
        draw(trajectories, kept, options.picture)


if __name__ == "__main__":
    script(main)
