"""Bins of the reliability diagram and ECE: against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from unimixer.metrics import expected_calibration_error, reliability
from unimixer.metrics.columns import as_labels, as_scores
from unimixer.metrics.reliability import reliability_bins


def draw(rows: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(rows) - 2).round(1)
    return logits, (rng.random(rows) < 1 / (1 + np.exp(-2 * logits))).astype(float)


@pytest.mark.parametrize("bins", [1, 5, 10, 40])
def test_bins_equal_those_of_scikit_learn(bins: int) -> None:
    logits, labels = draw()
    observed, predicted = calibration_curve(labels, 1 / (1 + np.exp(-logits)), n_bins=bins, strategy="quantile")
    found = reliability(logits, labels, bins)
    np.testing.assert_allclose([b.observed for b in found], observed, atol=1e-12)
    np.testing.assert_allclose([b.predicted for b in found], predicted, atol=1e-12)
    assert sum(b.rows for b in found) == len(labels)


def test_ece_by_hand() -> None:
    logits = np.log([0.1 / 0.9, 0.3 / 0.7, 0.6 / 0.4, 0.8 / 0.2])
    # bins {0.1, 0.3} and {0.6, 0.8}: |0.2 - 0.5| and |0.7 - 1| by halves
    assert expected_calibration_error(logits, [0, 1, 1, 1], bins=2) == pytest.approx(0.3)


def test_one_bin_is_the_gap_of_the_means() -> None:
    logits, labels = draw()
    gap = abs((1 / (1 + np.exp(-logits))).mean() - labels.mean())
    assert expected_calibration_error(logits, labels, bins=1) == pytest.approx(gap, abs=1e-12)


def test_effective_rows_are_the_rows_where_all_weigh_the_same() -> None:
    logits, labels = draw()
    for weights in (None, np.full(len(labels), 3.0)):
        for one in reliability_bins(as_scores(logits), as_labels(labels), weights, 5):
            assert one.effective_rows == pytest.approx(one.rows, rel=1e-9)


def test_effective_rows_of_sampled_negatives_give_the_spread_of_the_share() -> None:
    rng, rate = np.random.default_rng(0), 0.1
    shares, variances = [], []
    for _ in range(400):
        labels = rng.random(3_000) < 0.1
        kept = labels | (rng.random(3_000) < rate)
        weights = np.where(labels, 1.0, 1 / rate)[kept]
        (one,) = reliability_bins(np.zeros(kept.sum()), labels[kept], weights, 1)
        shares.append(one.observed)
        variances.append(one.observed * (1 - one.observed) / one.effective_rows)
    assert np.var(shares) == pytest.approx(np.mean(variances), rel=0.15)
    assert one.effective_rows == pytest.approx(1_650, rel=0.2)  # of 570 rows kept; 3,000 in the whole log
