"""Off-policy estimates: formulas by hand, coverage of the truth, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from unimixer.abtest.analysis.off_policy import OffPolicy, off_policy
from unimixer.errors import UnimixerError

LOGGED, TARGET, REWARD = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.3, 0.6])
TRUTH = float(TARGET @ REWARD)


def log(seed: int, rows: int = 4_000) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    action = rng.choice(3, size=rows, p=LOGGED)
    model = REWARD + 0.1  # biased by the same amount everywhere
    return {
        "rewards": (rng.random(rows) < REWARD[action]).astype(float),
        "propensities": LOGGED[action],
        "targets": TARGET[action],
        "predicted": model[action],
        "predicted_target": np.full(rows, TARGET @ model),
    }


def values(found: OffPolicy) -> dict[str, float]:
    return {estimate.estimator: estimate.value for estimate in found.estimates}


def test_the_estimates_equal_their_formulas() -> None:
    rows = log(0)
    weight = rows["targets"] / rows["propensities"]
    found = off_policy(**rows)
    assert values(found) == pytest.approx(
        {
            "IPS": np.mean(weight * rows["rewards"]),
            "SNIPS": np.sum(weight * rows["rewards"]) / np.sum(weight),
            "doubly robust": np.mean(rows["predicted_target"] + weight * (rows["rewards"] - rows["predicted"])),
        },
        rel=1e-9,
    )
    assert found.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-9)
    assert (found.rows, found.largest_weight) == (4_000, pytest.approx(3.0))
    deviation = (weight * rows["rewards"]).std(ddof=1) / np.sqrt(4_000)
    ips = found.estimates[0]
    assert ips.high - ips.low == pytest.approx(2 * stats.norm.isf(0.025) * deviation, rel=1e-9)


def test_the_effective_sample_size_counts_units_where_rows_belong_to_them() -> None:
    rows = log(0)
    weight = rows["targets"] / rows["propensities"]
    by_unit = weight.reshape(1_000, 4).sum(1)
    found = off_policy(**rows, units=np.repeat(np.arange(1_000), 4))
    assert found.effective_sample_size == pytest.approx(by_unit.sum() ** 2 / (by_unit**2).sum(), rel=1e-9)
    assert found.effective_sample_size < 1_000 < off_policy(**rows).effective_sample_size
    with pytest.raises(UnimixerError, match=r"the effective sample size is \d+.\d of 80 units, expected at least 100"):
        off_policy(**rows, units=np.arange(4_000) // 50)


def test_intervals_hold_the_truth_at_their_level() -> None:
    covered = {"IPS": 0, "SNIPS": 0, "doubly robust": 0}
    for seed in range(300):
        found = off_policy(**log(seed, rows=2_000))
        assert found.overlap_low < 1 < found.overlap_high or abs(found.overlap - 1) < 0.2
        for estimate in found.estimates:
            covered[estimate.estimator] += estimate.low <= TRUTH <= estimate.high
    assert min(covered.values()) >= stats.binom.ppf(0.001, 300, 0.95)


def test_rows_of_one_unit_are_not_independent() -> None:
    rows = {name: np.repeat(column, 4) for name, column in log(0, rows=1_000).items()}
    alone = off_policy(**log(0, rows=1_000)).estimates[0]
    found = off_policy(**rows, units=np.repeat(np.arange(1_000), 4)).estimates[0]
    assert (found.low, found.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


def test_an_action_that_was_never_logged_shows_in_the_overlap() -> None:
    rows = log(0)
    kept = rows["propensities"] != 0.6
    found = off_policy(rows["rewards"][kept], rows["propensities"][kept] / 0.4 * 0.4, rows["targets"][kept])
    assert not found.overlap_low < 1 < found.overlap_high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": [0.5, np.nan]}, "1 of 2 rows have no propensity"),
        ({"propensities": [0.5, 0.0]}, "1 of 2 propensities are not above 0 and at most 1 .the first is 0."),
        ({"propensities": [0.5, 1.5]}, "the first is 1.5"),
        ({"targets": [0.5, -0.1]}, "targets are probabilities"),
        ({"targets": [0.0, 0.0]}, "never takes a logged action"),
        ({"targets": [0.5]}, "targets has shape .1,., expected one value for each of 2 rows"),
        ({"rewards": [1.0, np.inf]}, "rewards has 1 values that are not finite"),
        ({"rewards": []}, "no rows"),
        ({"predicted": [1.0, 1.0]}, "needs both predicted and predicted_target"),
        ({}, "the effective sample size is 2.0 of 2 rows, expected at least 100"),
    ],
)
def test_a_log_that_supports_no_estimate_is_refused(change: dict[str, Any], message: str) -> None:
    rows: dict[str, Any] = {"rewards": [1.0, 0.0], "propensities": [0.5, 0.5], "targets": [0.5, 0.5]}
    with pytest.raises(UnimixerError, match=message):
        off_policy(**rows | change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": np.arange(10)}, r"units has shape \(10,\), expected one value for each of 500 rows"),
        ({"alpha": 0.0}, "alpha=0.0 must lie between 0 and 1"),
    ],
)
def test_units_of_other_rows_and_a_level_of_zero_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        off_policy(np.ones(500), np.full(500, 0.5), np.full(500, 0.5), **changes)
