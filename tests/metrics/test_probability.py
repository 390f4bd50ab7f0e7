from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics

from unimixer.errors import UnimixerError
from unimixer.metrics import calibration, log_loss, normalised_entropy


def draw(rows: int = 5_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(rows) * 2
    probability = 1 / (1 + np.exp(-logits))
    return logits, (rng.random(rows) < probability).astype(np.float32), probability


def test_log_loss_equals_scikit_learn_on_probabilities() -> None:
    logits, labels, probability = draw()
    assert log_loss(logits, labels) == pytest.approx(sklearn.metrics.log_loss(labels, probability), abs=1e-12)


def test_log_loss_of_extreme_logits_is_their_size_and_not_infinite() -> None:
    assert log_loss([800.0, -800.0], [0, 1]) == 800.0
    assert log_loss([800.0, -800.0], [1, 0]) == 0.0


def test_log_loss_of_one_class_is_defined() -> None:
    assert log_loss([0.0, 0.0], [1, 1]) == pytest.approx(math.log(2))


def test_a_constant_prediction_of_the_mean_has_normalised_entropy_one_and_calibration_one() -> None:
    labels = [1, 0, 0, 0]
    logits = [math.log(0.25 / 0.75)] * 4
    assert normalised_entropy(logits, labels) == pytest.approx(1, abs=1e-12)
    assert calibration(logits, labels) == pytest.approx(1, abs=1e-12)


def test_normalised_entropy_is_log_loss_over_the_entropy_of_the_mean_label() -> None:
    logits, labels, _ = draw()
    rate = labels.mean(dtype=np.float64)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert normalised_entropy(logits, labels) == pytest.approx(log_loss(logits, labels) / entropy, abs=1e-12)


def test_calibration_is_the_sum_of_predictions_over_the_sum_of_labels() -> None:
    logits, labels, probability = draw()
    assert calibration(logits, labels) == pytest.approx(probability.sum() / labels.sum(dtype=np.float64), abs=1e-12)


@pytest.mark.parametrize(("metric", "what"), [(normalised_entropy, "normalised entropy"), (calibration, "calibration")])
def test_one_class_is_refused_where_the_metric_divides_by_nothing(metric: object, what: str) -> None:
    assert callable(metric)
    with pytest.raises(UnimixerError, match=f"{what} needs both classes: label is 0 in all 2 rows"):
        metric([0.0, 1.0], [0, 0])
