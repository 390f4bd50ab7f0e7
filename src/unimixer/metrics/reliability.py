"""Calibration over the range of the scores: bins of a reliability diagram, and the expected calibration error."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimixer.metrics.columns import Labels, Scores, Weights, as_labels, as_scores, check_columns
from unimixer.metrics.probability import sigmoid

BINS = 10
"""Number of bins unless another is asked for."""


class Bin(NamedTuple):
    """Rows of neighboring probabilities."""

    rows: int
    weight: float
    """The number of rows, or the sum of their weights."""
    predicted: float
    """Mean probability."""
    observed: float
    """Mean label."""
    effective_rows: float
    """Rows of equal weight whose share of positives has the variance of ``observed``."""


def reliability(logits: Any, labels: Any, bins: int = BINS) -> tuple[Bin, ...]:
    """Cut the rows into bins of equally many rows by their probability; rows of one score share a bin.

    These are the bins of ``sklearn.calibration.calibration_curve(strategy="quantile")``.

    Args:
        logits: ``(rows,)``
        labels: ``(rows,)`` of 0 and 1, or probabilities.
        bins: number of bins; those that ties leave empty are dropped.

    Example:
        >>> [(b.rows, b.observed) for b in reliability([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], bins=2)]
        [(2, 0.0), (2, 1.0)]
    """
    values, classes = as_scores(logits, "logits"), as_labels(labels)
    check_columns(values, labels=classes)
    return reliability_bins(values, classes, None, bins)


def expected_calibration_error(logits: Any, labels: Any, bins: int = BINS) -> float:
    r"""ECE: the mean gap between probability and label over the bins of :func:`reliability`, weighted by their rows.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \bar p_b - \bar y_b \right|

    Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (2015). Bins of equally many rows
    also resolve the small probabilities of clicks, which bins of equal width would put into one.
    """
    return calibration_error(reliability(logits, labels, bins))


def reliability_bins(logits: Scores, labels: Labels, weights: Weights | None, bins: int) -> tuple[Bin, ...]:
    """:func:`reliability` of checked columns; weights count in the means and not in the edges."""
    order = np.lexsort((labels, logits) if weights is None else (weights, labels, logits))
    p, y = sigmoid(logits[order].astype(np.float64)), labels[order].astype(np.float64)
    w = np.ones(len(p)) if weights is None else weights[order]
    edges = np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])
    places = np.searchsorted(p, edges, side="right") if bins > 1 else np.empty(0, np.int64)
    ends = np.unique(np.concatenate((places, [len(p)])))
    starts = np.concatenate(([0], ends[:-1]))
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        total = float(w[start:end].sum())
        if total > 0:
            inside = slice(start, end)
            predicted, observed = (float((w[inside] * column[inside]).sum() / total) for column in (p, y))
            found.append(Bin(end - start, total, predicted, observed, _effective_rows(w[inside], y[inside], observed)))
    return tuple(found)


def _effective_rows(weights: Weights, labels: NDArray[np.float64], mean: float) -> float:
    """Divide the variance of one label of 0 and 1 by the linearized variance of the weighted mean."""
    variance = float(((weights * (labels - mean)) ** 2).sum()) / float(weights.sum()) ** 2
    if variance > 0:
        return mean * (1 - mean) / variance
    return float(weights.sum()) ** 2 / float((weights**2).sum())


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """:func:`expected_calibration_error` of bins."""
    total = sum(b.weight for b in bins)
    return sum(b.weight * abs(b.predicted - b.observed) for b in bins) / total
