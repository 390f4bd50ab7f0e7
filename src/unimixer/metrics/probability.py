"""How good the probabilities are: log loss, normalised entropy, calibration; all from logits, in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimixer.metrics.columns import Labels, Scores, as_labels, as_scores, check_both_classes, check_columns


def log_loss(logits: Any, labels: Any) -> float:
    r"""Mean negative log likelihood in nats, from logits: stable where a probability would round to 0 or 1.

    .. math:: \frac1n \sum_i \log(1 + e^{z_i}), \qquad z_i = -x_i \text{ where } y_i = 1, \text{ else } x_i

    A label that is a probability p counts as a positive of weight p and a negative of weight 1 - p, so this is then
    the mean cross entropy.

    Args:
        logits: ``(rows,)``; for a probability p give ``log(p / (1 - p))``.
        labels: ``(rows,)`` of 0 and 1, or probabilities.

    Example:
        >>> round(log_loss([0.0, 0.0], [0, 1]), 6)
        0.693147
    """
    return mean_log_loss(_checked(logits, labels))


def normalised_entropy(logits: Any, labels: Any) -> float:
    r"""Log loss over the entropy of the mean label, so that 1 is what a constant prediction reaches.

    .. math:: \mathrm{NE} = \frac{\mathrm{log\_loss}}{-(\bar y \log \bar y + (1 - \bar y) \log (1 - \bar y))}

    He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (2014), section 3.

    Raises:
        UnimixerError: where all labels are equal, because their entropy is 0.
    """
    rows = _checked(logits, labels, needs_both="normalised entropy")
    return mean_log_loss(rows) / label_entropy(rows)


def calibration(logits: Any, labels: Any) -> float:
    """PCOC, predicted over observed: the sum of the probabilities over the sum of the labels.

    Above 1, the model promises too much.

    Raises:
        UnimixerError: where all labels are equal.
    """
    return mean_calibration(_checked(logits, labels, needs_both="calibration"))


def excess_log_loss(logits: Any, truth: Any) -> float:
    r"""Mean cross entropy against the true probability minus its entropy: the part of the loss that is the model's.

    .. math:: \frac1n \sum_i \mathrm{KL}(p_i \,\Vert\, q_i) = \frac1n \sum_i
        p_i \log \frac{p_i}{q_i} + (1 - p_i) \log \frac{1 - p_i}{1 - q_i}, \qquad q_i = \sigma(x_i)

    Args:
        logits: ``(rows,)``
        truth: ``(rows,)`` of true probabilities.

    Example:
        >>> round(excess_log_loss([0.0, 0.0], [0.5, 1.0]), 6)
        0.346574
    """
    values, truths = as_scores(logits, "logits"), as_labels(truth, "truth")
    check_columns(values, truth=truths)
    return float(np.sort(excess_log_losses(values, truths)).mean())


def excess_log_losses(logits: Scores, truth: Labels) -> NDArray[np.float64]:
    """Divergence of the predicted from the true probability of every row, in nats."""
    x, p = logits.astype(np.float64), truth.astype(np.float64)
    divergence = _weighted(p, _log(p) + _softplus(-x)) + _weighted(1 - p, _log(1 - p) + _softplus(x))
    return np.maximum(divergence, 0.0)  # rounding may leave a negative one


def log_losses(logits: Scores, labels: Labels) -> NDArray[np.float64]:
    """Cross entropy of every row, in nats."""
    x, p = logits.astype(np.float64), labels.astype(np.float64)
    return _weighted(p, _softplus(-x)) + _weighted(1 - p, _softplus(x))


def mean_excess(losses: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> tuple[float, float | None]:
    """Return the mean of :func:`excess_log_losses` and its standard error over the rows; one row has none."""
    if weights is None:
        ordered, n = np.sort(losses), len(losses)
        return float(ordered.mean()), float(ordered.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    order = np.lexsort((weights, losses))  # so that sums do not depend on the rows' order
    ordered, w, n = losses[order], weights[order], len(losses)
    mean = float((w * ordered).sum() / w.sum())
    spread = float(np.sqrt(((w * (ordered - mean)) ** 2).sum()) / w.sum())
    return mean, spread * float(np.sqrt(n / (n - 1))) if n > 1 else None


class SortedRows(NamedTuple):
    """Logits sorted, so that sums over them do not depend on the rows' order."""

    negatives: NDArray[np.float64]
    positives: NDArray[np.float64]
    """With soft labels both hold all rows."""
    probabilities: NDArray[np.float64] | None = None
    """Soft labels of the rows, times the weights of the rows: the weights of ``positives``."""
    complements: NDArray[np.float64] | None = None
    """One minus the soft labels, times the weights of the rows: the weights of ``negatives``."""

    @property
    def total(self) -> float:
        """Number of rows, or the sum of their weights."""
        if self.probabilities is None or self.complements is None:
            return len(self.positives) + len(self.negatives)
        return float((self.probabilities + self.complements).sum())

    @property
    def sum_of_labels(self) -> float:
        """Positives, or the sum of the probabilities."""
        return len(self.positives) if self.probabilities is None else float(self.probabilities.sum())


def sorted_rows(logits: Scores, labels: Labels, weights: NDArray[np.float64] | None = None) -> SortedRows:
    """Sort checked columns."""
    if labels.dtype == np.bool_ and weights is None:
        positive = labels.astype(np.bool_, copy=False)
        return SortedRows(np.sort(logits[~positive]).astype(np.float64), np.sort(logits[positive]).astype(np.float64))
    columns = (labels, logits) if weights is None else (weights, labels, logits)
    order = np.lexsort(columns)
    rows, p = logits[order].astype(np.float64), labels[order].astype(np.float64)
    if weights is None:
        return SortedRows(rows, rows, p, 1 - p)
    return SortedRows(rows, rows, weights[order] * p, weights[order] * (1 - p))


def mean_log_loss(rows: SortedRows) -> float:
    """:func:`log_loss` of sorted rows."""
    negative, positive = _softplus(rows.negatives), _softplus(-rows.positives)
    if rows.probabilities is not None and rows.complements is not None:
        negative, positive = _weighted(rows.complements, negative), _weighted(rows.probabilities, positive)
    return float((negative.sum() + positive.sum()) / rows.total)


def mean_calibration(rows: SortedRows) -> float:
    """:func:`calibration` of sorted rows."""
    if rows.probabilities is None or rows.complements is None:
        predicted = sum(float(sigmoid(logits).sum()) for logits in (rows.negatives, rows.positives))
    else:
        predicted = float(((rows.probabilities + rows.complements) * sigmoid(rows.positives)).sum())
    return predicted / rows.sum_of_labels


def label_entropy(rows: SortedRows) -> float:
    """Entropy of the mean label, in nats."""
    rate = rows.sum_of_labels / rows.total
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of a logit."""
    probabilities: NDArray[np.float64] = np.exp(-_softplus(-logits))
    return probabilities


def _softplus(values: NDArray[np.float64]) -> NDArray[np.float64]:
    positive: NDArray[np.float64] = np.maximum(values, 0.0)
    return positive + np.log1p(np.exp(-np.abs(values)))


def _weighted(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply, with 0 wherever the weight is 0, also of an infinite value."""
    return np.multiply(weights, values, out=np.zeros_like(weights), where=weights > 0)


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of positive values, 0 for the others."""
    return np.log(values, out=np.zeros_like(values), where=values > 0)


def _checked(logits: Any, labels: Any, *, needs_both: str | None = None) -> SortedRows:
    values, classes = as_scores(logits, "logits"), as_labels(labels)
    check_columns(values, labels=classes)
    if needs_both is not None:
        check_both_classes(classes, needs_both)
    return sorted_rows(values, classes)
