"""Bins of the reliability diagram and ECE: against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from unimixer.metrics import expected_calibration_error, reliability


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
