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

Counts = NDArray[np.uint8]
"""Multiplicity of every user in every draw, ``(replicates, users)``."""
Values = NDArray[np.float64]
Weighted = Callable[[Counts], Values]
"""Maps ``(replicates, users)`` to one value per draw."""
HIGHER_IS_BETTER: Mapping[str, bool] = {"auc": True, "uauc": True, "gauc": True, "log_loss": False, "ne": False}
"""By metric: whether higher is better. ``ne`` is the normalized entropy."""
_NEED_LISTS = ("uauc", "gauc")


class LabelledRows:
    """Labels of one task, and users, of the test rows.

    Args:
        labels: ``(rows,)`` of 0 and 1.
        users: ``(rows,)`` keys; without them every row is a user of its own, and there is no UAUC and no GAUC.

    Example:
        >>> rows = LabelledRows([0, 1, 0, 1], users=[7, 7, 9, 9])
        >>> auc = rows.weighted("auc", [0.1, 0.9, 0.8, 0.2])
        >>> auc(np.array([[1, 1], [2, 0]], dtype=np.uint8)).tolist()
        [0.75, 1.0]
    """

    def __init__(self, labels: Any, users: Any = None) -> None:
        self.labels: Labels = as_labels(labels)
        check_both_classes(self.labels)
        self.has_users = users is not None
        keys = np.arange(len(self.labels)) if users is None else as_array(users)
        check_columns(self.labels, users=keys)
        self.keys, codes = np.unique(keys, return_inverse=True)
        self.codes: NDArray[np.intp] = codes.astype(np.intp)
        self.num_users = len(self.keys)
        positives = self._by_user(self.labels)
        rows = self._by_user(np.ones(len(self.labels)))
        self.both = (positives > 0) & (positives < rows)
        """Users with both classes, the ones that UAUC and GAUC are means over."""
        self._positives, self._rows = positives, rows

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that these rows allow."""
        lists = self.has_users and bool(self.both.any())
        return tuple(name for name in HIGHER_IS_BETTER if lists or name not in _NEED_LISTS)

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
        return self._loss(scores.astype(np.float64), normalised=metric == "ne")

    def _by_user(self, values: NDArray[Any]) -> Values:
        return np.bincount(self.codes, weights=values.astype(np.float64), minlength=self.num_users).astype(np.float64)

    def _auc(self, scores: Scores) -> Weighted:
        r"""Prepare AUC with multiplicities :math:`m` of users: a pair of rows counts as often as both its users do.

        .. math:: \frac{\sum_{p,n} m_p m_n (2 [s_p > s_n] + [s_p = s_n])}{2 \sum_p m_p \sum_n m_n}

        With the negatives sorted once, a positive's inner sum is two places in a running total of their weights. All
        sums are whole numbers below 2^53, so they are exact.
        """
        order = np.argsort(scores[~self.labels], kind="stable")
        sorted_negatives = scores[~self.labels][order]
        negative_users = self.codes[~self.labels][order]
        weights_below = np.empty(len(sorted_negatives))
        climb = np.argsort(scores[self.labels], kind="stable")  # places in memory then rise: faster to read
        positive_users, positives = self.codes[self.labels][climb], scores[self.labels][climb]
        below = np.searchsorted(sorted_negatives, positives, side="left")
        up_to = np.searchsorted(sorted_negatives, positives, side="right")
        total = np.zeros(len(sorted_negatives) + 1)

        def value(counts: NDArray[np.float64]) -> float:
            counts.take(negative_users, out=weights_below, mode="clip")  # codes are in range; "clip" skips the check
            np.cumsum(weights_below, out=total[1:])
            weights = counts.take(positive_users, mode="clip")
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

    def _loss(self, logits: NDArray[np.float64], *, normalised: bool) -> Weighted:
        """Prepare log loss or normalized entropy: sums by user, then by draw."""
        signed = np.where(self.labels, -logits, logits)
        losses = self._by_user(np.maximum(signed, 0.0) + np.log1p(np.exp(-np.abs(signed))))

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
