"""How good the probabilities are: log loss, normalised entropy, calibration; all from logits, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.metrics.columns import Labels, Scores, as_labels, as_scores, check_both_classes, check_columns


def log_loss(logits: Any, labels: Any) -> float:
    r"""Mean negative log likelihood in nats, from logits: stable where a probability would round to 0 or 1.

    .. math:: \frac1n \sum_i \log(1 + e^{z_i}), \qquad z_i = -x_i \text{ where } y_i = 1, \text{ else } x_i

    Args:
        logits: ``(rows,)``; for a probability p give ``log(p / (1 - p))``.
        labels: ``(rows,)`` of 0 and 1.

    Example:
        >>> round(log_loss([0.0, 0.0], [0, 1]), 6)
        0.693147
    """
    return sorted_log_loss(*_by_class(logits, labels))


def normalised_entropy(logits: Any, labels: Any) -> float:
    r"""Log loss over the entropy of the mean label, so that 1 is what a constant prediction reaches.

    .. math:: \mathrm{NE} = \frac{\mathrm{log\_loss}}{-(\bar y \log \bar y + (1 - \bar y) \log (1 - \bar y))}

    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (2014), section 3.

    Raises:
        UnimixerError: where all labels are equal, because their entropy is 0.
    """
    negatives, positives = _by_class(logits, labels, needs_both="normalised entropy")
    return sorted_log_loss(negatives, positives) / label_entropy(len(positives), len(negatives))


def calibration(logits: Any, labels: Any) -> float:
    """Sum of the predicted probabilities over the sum of the labels: above 1, the model promises too much.

    Raises:
        UnimixerError: where all labels are equal.
    """
    return sorted_calibration(*_by_class(logits, labels, needs_both="calibration"))


def split_by_class(logits: Scores, labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits of the negatives and of the positives, each sorted: sums over them do not depend on the rows' order."""
    return np.sort(logits[~labels]).astype(np.float64), np.sort(logits[labels]).astype(np.float64)


def sorted_log_loss(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """:func:`log_loss` of logits split by class."""
    total = _softplus(negatives).sum() + _softplus(-positives).sum()
    return float(total / (len(negatives) + len(positives)))


def sorted_calibration(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """:func:`calibration` of logits split by class."""
    predicted = sum(float(np.exp(-_softplus(-logits)).sum()) for logits in (negatives, positives))
    return predicted / len(positives)


def label_entropy(positives: int, negatives: int) -> float:
    """Entropy of the mean label, in nats."""
    rate = positives / (positives + negatives)
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def _softplus(values: NDArray[np.float64]) -> NDArray[np.float64]:
    positive: NDArray[np.float64] = np.maximum(values, 0.0)
    return positive + np.log1p(np.exp(-np.abs(values)))


def _by_class(
    logits: Any, labels: Any, *, needs_both: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, classes = as_scores(logits, "logits"), as_labels(labels)
    check_columns(values, labels=classes)
    if needs_both is not None:
        check_both_classes(classes, needs_both)
    return split_by_class(values, classes)
