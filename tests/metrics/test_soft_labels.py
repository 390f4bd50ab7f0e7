"""Labels that are probabilities: every metric is the expected form, and hard labels are the special case."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from unimixer.metrics import (
    MetricAccumulator,
    TaskMetrics,
    auc,
    calibration,
    excess_log_loss,
    gauc,
    log_loss,
    normalised_entropy,
    uauc,
    user_auc,
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(seed: int = 0, rows: int = 500, *, levels: int = 40, users: int = 12) -> Arrays:
    rng = np.random.default_rng(seed)
    logits = (rng.integers(-levels, levels + 1, rows) / levels * 3).astype(np.float32)
    return logits, rng.random(rows).astype(np.float32), rng.integers(0, users, rows)


def doubled(logits: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row as a positive of weight p and a negative of weight 1 - p: labels, scores and weights."""
    ones, weights = np.ones(len(p)), p.astype(np.float64)
    return np.concatenate([ones, 0 * ones]), np.tile(logits, 2), np.concatenate([weights, 1 - weights])


def textbook(logits: np.ndarray, p: np.ndarray) -> np.ndarray:
    q, p = 1 / (1 + np.exp(-logits.astype(np.longdouble))), p.astype(np.longdouble)
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def measured(logits: np.ndarray, labels: np.ndarray, users: np.ndarray, truth: np.ndarray) -> TaskMetrics:
    accumulator = MetricAccumulator(("click",), truths=("click",))
    for part in zip(*(np.array_split(column, 3) for column in (logits, labels, users, truth)), strict=True):
        accumulator.update(part[0][:, None], part[1][:, None], part[2], part[3][:, None])
    return accumulator.compute()["click"]


def test_auc_worked_by_hand() -> None:
    # positives .2 and .9 of weight, negatives .8 and .1; pairs: .9 over .8, half of .2 with .8 and of .9 with .1
    assert auc([0.0, 1.0], [0.2, 0.9]) == pytest.approx((0.9 * 0.8 + 0.5 * (0.2 * 0.8 + 0.9 * 0.1)) / (1.1 * 0.9))


@given(seed=st.integers(0, 1_000), rows=st.integers(1, 40), levels=st.integers(1, 9))
def test_auc_is_the_weight_of_the_pairs_in_the_right_order(seed: int, rows: int, levels: int) -> None:
    logits, p, _ = draw(seed, rows, levels=levels)
    wins = sum(
        float(p[a]) * (1 - float(p[b])) * ((logits[a] > logits[b]) + 0.5 * (logits[a] == logits[b]))
        for a, b in product(range(rows), repeat=2)
    )
    total = p.sum(dtype=np.float64) * (1 - p.astype(np.float64)).sum()
    assert auc(logits, p) == pytest.approx(wins / total, abs=1e-12)


def test_auc_and_log_loss_equal_scikit_learn_with_weights() -> None:
    logits, p, _ = draw()
    labels, scores, weights = doubled(logits, p)
    assert auc(logits, p) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    predicted = 1 / (1 + np.exp(-scores.astype(np.float64)))
    assert log_loss(logits, p) == pytest.approx(
        sklearn.metrics.log_loss(labels, predicted, sample_weight=weights), abs=1e-12
    )


def test_user_metrics_are_those_of_each_user_alone() -> None:
    logits, p, users = draw()
    p[users == 3] = 1.0  # one class only
    kept = [user for user in np.unique(users) if user != 3]
    alone = [auc(logits[users == user], p[users == user]) for user in kept]
    found = user_auc(logits, p, users)
    assert found.auc == pytest.approx(alone, abs=1e-12)
    assert found.impressions.tolist() == [(users == user).sum() for user in kept]
    assert found.users_left_out == 1
    assert uauc(logits, p, users) == pytest.approx(np.mean(alone), abs=1e-12)
    assert gauc(logits, p, users) == pytest.approx(np.average(alone, weights=found.impressions), abs=1e-12)


def test_calibration_and_normalised_entropy_have_the_sum_of_the_probabilities() -> None:
    logits, p, _ = draw()
    rate, predicted = p.mean(dtype=np.float64), 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert calibration(logits, p) == pytest.approx(predicted.sum() / (rate * len(p)), rel=1e-12)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert normalised_entropy(logits, p) == pytest.approx(log_loss(logits, p) / entropy, rel=1e-12)


def test_labels_of_zero_and_one_have_the_numbers_of_their_neighbors() -> None:
    logits, p, users = draw()
    hard = (p > 0.5).astype(np.float64)
    near = np.clip(hard, 1e-12, 1 - 1e-12)  # soft by a hair
    for metric in (auc, log_loss, calibration, normalised_entropy):
        assert metric(logits, near) == pytest.approx(metric(logits, hard), abs=1e-9)
    assert uauc(logits, near, users) == pytest.approx(uauc(logits, hard, users), abs=1e-9)


def test_expected_metrics_are_the_mean_over_drawn_labels() -> None:
    logits, p, _ = draw(rows=2_000)
    rng = np.random.default_rng(5)
    drawn = [log_loss(logits, rng.random(len(p)) < p) for _ in range(200)]
    assert log_loss(logits, p) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(200))


def test_excess_log_loss_by_hand_and_by_the_textbook() -> None:
    assert excess_log_loss([0.0, 0.0], [0.5, 1.0]) == pytest.approx(math.log(2) / 2, rel=1e-15)
    logits, p, _ = draw()
    assert excess_log_loss(logits, p) == pytest.approx(float(textbook(logits, p).mean()), rel=1e-12)
    true = p.astype(np.float64)
    entropy = -(true * np.log(true) + (1 - true) * np.log1p(-true)).mean()
    assert excess_log_loss(logits, p) == pytest.approx(log_loss(logits, p) - entropy, abs=1e-12)


def test_the_true_probability_itself_has_no_excess() -> None:
    p = np.linspace(0.001, 0.999, 999)
    assert 0 <= excess_log_loss(np.log(p / (1 - p)), p) < 1e-15


def test_certain_labels_and_far_logits_are_sound() -> None:
    assert excess_log_loss([40.0, -40.0], [1.0, 0.0]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert excess_log_loss([40.0, -40.0], [0.0, 1.0]) == pytest.approx(40, rel=1e-12)
    assert log_loss([40.0, -40.0], [1.0, 0.5]) == pytest.approx((math.exp(-40) + 20) / 2, rel=1e-12)
    assert excess_log_loss([np.inf, -np.inf], [1.0, 0.0]) == 0
    assert excess_log_loss([800.0], [0.25]) == pytest.approx(600 + 0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def test_the_accumulator_has_every_metric_and_the_error_of_the_excess() -> None:
    logits, p, users = draw()
    found = measured(logits, p, users, p)
    rows = textbook(logits, p).astype(np.float64)
    assert found.excess_log_loss == pytest.approx(rows.mean(), rel=1e-12)
    assert found.excess_log_loss_error == pytest.approx(rows.std(ddof=1) / math.sqrt(len(rows)), rel=1e-12)
    assert (found.auc, found.uauc, found.gauc) == (auc(logits, p), uauc(logits, p, users), gauc(logits, p, users))
    assert (found.log_loss, found.calibration) == (log_loss(logits, p), calibration(logits, p))
    assert found.positive_rate == pytest.approx(p.mean(dtype=np.float64), rel=1e-12)


def test_hard_labels_are_measured_against_the_truth_too() -> None:
    logits, p, users = draw()
    hard = (np.random.default_rng(1).random(len(p)) < p).astype(np.float32)
    found = measured(logits, hard, users, p)
    assert found.auc == auc(logits, hard)
    assert found.excess_log_loss == excess_log_loss(logits, p)


def test_order_and_parts_do_not_change_a_bit_and_a_state_comes_back() -> None:
    logits, p, users = draw(rows=1_000)
    p[:400] = p[:400] > 0.5  # a part whose labels are all hard
    order = np.random.default_rng(2).permutation(len(p))
    expected = measured(logits, p, users, p)
    assert measured(*(column[order] for column in (logits, p, users, p))) == expected
    whole = MetricAccumulator(("click",), truths=("click",))
    for rows in (slice(0, 400), slice(400, None)):
        part = MetricAccumulator(("click",), truths=("click",))
        part.update(logits[rows, None], p[rows, None], users[rows], p[rows, None])
        restored = MetricAccumulator(("click",), truths=("click",))
        restored.load_state(part.state())
        whole.merge(restored)
    assert whole.compute()["click"] == expected
