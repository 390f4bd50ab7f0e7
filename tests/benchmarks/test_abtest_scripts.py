"""The scripts of online experiments: coverage on fewer experiments, and trajectories worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmarks import abtest_coverage, asos


@pytest.mark.slow
def test_intervals_err_at_their_level_and_peeking_at_fixed_ones_does_not() -> None:
    count = 60
    most = stats.binom.ppf(0.999, count, abtest_coverage.ALPHA)
    for lift in (0.0, abtest_coverage.LIFT):
        rows = {(row["metric"], row["reading"]): row for row in abtest_coverage.measure(count, lift)}
        for metric in abtest_coverage.METRICS:
            assert rows[metric, "fixed, at the end"]["wrong"] <= most
            assert rows[metric, "sequential, every day"]["wrong"] <= most
            assert rows[metric, "fixed, every day"]["wrong"] >= rows[metric, "sequential, every day"]["wrong"]
        if not lift:
            assert rows["mean", "fixed, every day"]["wrong"] > most
    assert rows["mean, CUPED", "fixed, at the end"]["narrowed"] == pytest.approx(
        abtest_coverage.predicted_factor(size=100), abs=0.01
    )


def test_the_true_effect_is_that_of_many_units() -> None:
    rng = np.random.default_rng(0)
    last = abtest_coverage.DAYS - 1
    means = [np.mean([abtest_coverage.arm(rng, lift)[last]["clicks"].mean() for _ in range(40)]) for lift in (0.0, 0.5)]
    assert means[1] - means[0] == pytest.approx(abtest_coverage.truth("mean", last, 0.5), rel=0.05)


def looks(difference: list[float], variance: float = 1.0) -> pl.DataFrame:
    """One trajectory whose difference to the control is as given; 1,000 new units an arm at every look."""
    counts = [1_000.0 * (at + 1) for at in range(len(difference))]
    return pl.DataFrame(
        {
            "experiment_id": "x",
            "variant_id": 1,
            "metric_id": 1,
            "time_since_start": [float(at + 1) for at in range(len(difference))],
            "count_c": counts,
            "count_t": counts,
            "mean_c": 1.0,
            "mean_t": [1.0 + one for one in difference],
            "variance_c": variance,
            "variance_t": variance,
        }
    )


@pytest.mark.parametrize(
    ("difference", "fixed_ever", "fixed_end", "sequential_ever"),
    [
        ([0.0, 0.07, 0.01, 0.0], 0.5, False, None),  # 2.2 standard errors at the second look
        ([0.0, 0.2, 0.2, 0.2], 0.5, True, 0.5),
        ([0.0, 0.0, 0.0, 0.0], None, False, None),
    ],
)
def test_a_trajectory_says_when_each_way_of_reading_called_an_effect(
    difference: list[float], fixed_ever: float | None, fixed_end: bool, sequential_ever: float | None
) -> None:
    (found,), _ = asos.study(looks(difference))
    assert (found.fixed_ever, found.fixed_end, found.sequential_ever) == (fixed_ever, fixed_end, sequential_ever)
    assert (found.checkpoints, found.units, found.metric) == (4, 8_000, "binary")
    assert found.split_p == 1.0


def test_the_table_counts_false_alarms_and_the_picture_is_drawn(tmp_path: Path) -> None:
    alarm, kept = asos.study(looks([0.0, 0.07, 0.01, 0.0]))
    assert asos.table(alarm).splitlines()[2] == "| binary | 1 | 0 | 1 | 1 | 0 | 0 |"
    assert asos.summary(alarm).startswith("fixed peeking gave 1 false alarms, sequential reading did not in 1 of these")
    asos.draw(alarm, kept, tmp_path / "asos.png")
    assert (tmp_path / "asos.png").read_bytes().startswith(b"\x89PNG")
