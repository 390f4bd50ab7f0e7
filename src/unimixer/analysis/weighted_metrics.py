"""Metrics for a bootstrap over users: every user counts a whole number of times, for many draws at once.

A metric is prepared once for the scores of one model (sorted, summed by user) and then called with multiplicities. One
call costs one pass over the rows for AUC and one over the users for the others, and equals the plain metric on a table
that repeats the rows of a user as often as the user counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError, check_choice
from unimixer.metrics import user_auc
from unimixer.metrics.columns import Labels, Scores, as_array, as_labels, as_scores, check_both_classes, check_columns
from unimixer.metrics.probability import excess_log_losses, log_losses

Counts = NDArray[np.uint8]
"""Multiplicity of every user in every draw, ``(replicates, users)``."""
Values = NDArray[np.float64]
Weighted = Callable[[Counts], Values]
"""Maps ``(replicates, users)`` to one value per draw."""
HIGHER_IS_BETTER: Mapping[str, bool] = {
    **dict.fromkeys(("auc", "uauc", "gauc"), True),
    **dict.fromkeys(("log_loss", "ne", "excess_log_loss"), False),
}
"""By metric: whether higher is better. ``ne`` is the normalized entropy."""
_NEED_LISTS = ("uauc", "gauc")


class LabelledRows:
    """Labels of one task, and users, of the test rows.

    Args:
        labels: ``(rows,)`` of 0 and 1, or probabilities.
        users: ``(rows,)`` keys; without them every row is a user of its own, and there is no UAUC and no GAUC.
        truth: ``(rows,)`` true probabilities; without them there is no excess log loss.

    Example:
        >>> rows = LabelledRows([0, 1, 0, 1], users=[7, 7, 9, 9])
        >>> auc = rows.weighted("auc", [0.1, 0.9, 0.8, 0.2])
        >>> auc(np.array([[1, 1], [2, 0]], dtype=np.uint8)).tolist()
        [0.75, 1.0]
    """

    def __init__(self, labels: Any, users: Any = None, truth: Any = None) -> None:
        self.labels: Labels = as_labels(labels)
        self.truth: Labels | None = None if truth is None else as_labels(truth, "truth")
        check_both_classes(self.labels)
        self.has_users = users is not None
        keys = np.arange(len(self.labels)) if users is None else as_array(users)
        check_columns(self.labels, users=keys, **({} if self.truth is None else {"truth": self.truth}))
        self.keys, codes = np.unique(keys, return_inverse=True)
        self.codes: NDArray[np.intp] = codes.astype(np.intp)
        self.num_users = len(self.keys)
        weights = self.labels.astype(np.float64)
        positives, negatives = self._by_user(weights), self._by_user(1 - weights)
        rows = self._by_user(np.ones(len(self.labels)))
        self.both = (positives > 0) & (negatives > 0)
        """Users with both classes, the ones that UAUC and GAUC are means over."""
        self._positives, self._rows = positives, rows

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that these rows allow."""
        lists, known = self.has_users and bool(self.both.any()), self.truth is not None
        lacking = (*(() if lists else _NEED_LISTS), *(() if known else ("excess_log_loss",)))
        return tuple(name for name in HIGHER_IS_BETTER if name not in lacking)

    def users_of(self, metric: str) -> int:
        """Return the number of users that a metric is computed from."""
        return int(self.both.sum()) if metric in _NEED_LISTS else self.num_users

    def weighted(self, metric: str, logits: Any) -> Weighted:
        """Prepare a metric of some logits ``(rows,)``, to be called with multiplicities of the users.

        The value is NaN for a draw with one class only, or without a user who has both.
        """
        check_choice("metric", metric, self.metrics)
        scores = as_scores(logits, "logits")
        check_columns(scores, labels=self.labels)
        if metric == "auc":
            return self._auc(scores)
        if metric in _NEED_LISTS:
            return self._mean_of_users(scores, by_rows=metric == "gauc")
        if metric == "excess_log_loss":
            assert self.truth is not None
            return self._loss(excess_log_losses(scores, self.truth))
        return self._loss(log_losses(scores, self.labels), normalised=metric == "ne")

    def _by_user(self, values: NDArray[Any]) -> Values:
        return np.bincount(self.codes, weights=values.astype(np.float64), minlength=self.num_users).astype(np.float64)

    def _auc(self, scores: Scores) -> Weighted:
        r"""Prepare AUC with multiplicities :math:`m` of users: a pair of rows counts as often as both its users do.

        .. math:: \frac{\sum_{p,n} m_p m_n (2 [s_p > s_n] + [s_p = s_n])}{2 \sum_p m_p \sum_n m_n}

        With the negatives sorted once, a positive's inner sum is two places in a running total of their weights. All
        sums are whole numbers below 2^53, so they are exact. A row with a soft label p is a positive that counts p
        times and a negative that counts 1 - p times.
        """
        soft = self.labels.dtype != np.bool_
        p = self.labels.astype(np.float64)
        order = np.argsort(scores[p < 1], kind="stable")
        sorted_negatives = scores[p < 1][order]
        negative_users, negative_weights = self.codes[p < 1][order], 1 - p[p < 1][order]
        weights_below = np.empty(len(sorted_negatives))
        climb = np.argsort(scores[p > 0], kind="stable")  # places in memory then rise: faster to read
        positive_users, positives = self.codes[p > 0][climb], scores[p > 0][climb]
        positive_weights = p[p > 0][climb]
        below = np.searchsorted(sorted_negatives, positives, side="left")
        up_to = np.searchsorted(sorted_negatives, positives, side="right")
        total = np.zeros(len(sorted_negatives) + 1)

        def value(counts: NDArray[np.float64]) -> float:
            counts.take(negative_users, out=weights_below, mode="clip")  # codes are in range; "clip" skips the check
            if soft:
                np.multiply(weights_below, negative_weights, out=weights_below)
            np.cumsum(weights_below, out=total[1:])
            weights = counts.take(positive_users, mode="clip")
            if soft:
                weights *= positive_weights
            won = total.take(below, mode="clip") + total.take(up_to, mode="clip")
            wins = np.einsum("i,i", weights, won)  # a thousand short products: BLAS would wake its threads for each
            pairs = 2.0 * weights.sum() * total[-1]
            return float(wins / pairs) if pairs else float("nan")

        return lambda counts: np.array([value(row) for row in _checked(counts, self.num_users)])

    def _mean_of_users(self, scores: Scores, *, by_rows: bool) -> Weighted:
        """Prepare UAUC or GAUC: the AUC of a user does not depend on the user's multiplicity."""
        own = user_auc(scores, self.labels, self.codes)
        weight = own.impressions.astype(np.float64) if by_rows else np.ones(own.users_counted)

        def values(counts: Counts) -> Values:
            chosen = _checked(counts, self.num_users)[:, self.both]
            return _ratio(chosen @ (own.auc * weight), chosen @ weight)

        return values

    def _loss(self, losses_of_rows: Values, *, normalised: bool = False) -> Weighted:
        """Prepare the mean of a loss, or normalized entropy: sums by user, then by draw."""
        losses = self._by_user(losses_of_rows)

        def values(counts: Counts) -> Values:
            chosen = _checked(counts, self.num_users)
            rows = chosen @ self._rows
            loss = _ratio(chosen @ losses, rows)
            return _ratio(loss, _entropy(_ratio(chosen @ self._positives, rows))) if normalised else loss

        return values


def _checked(counts: Counts, users: int) -> NDArray[np.float64]:
    if counts.ndim != 2 or counts.shape[1] != users:
        raise UnimixerError(f"counts have shape {counts.shape}, expected (replicates, {users}): one column a user")
    return counts.astype(np.float64)


def _ratio(above: Values, below: Values) -> Values:
    """Divide, with NaN for a denominator of 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _entropy(rate: Values) -> Values:
    inside = np.clip(rate, 1e-300, 1.0)
    outside = np.clip(1.0 - rate, 1e-300, 1.0)
    return -(rate * np.log(inside) + (1.0 - rate) * np.log(outside))
