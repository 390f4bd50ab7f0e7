"""AUC and its means over users, exact and aware of ties, from one sort of packed integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.metrics.columns import (
    HardLabels,
    Labels,
    Scores,
    Weights,
    as_array,
    as_labels,
    as_scores,
    check_both_classes,
    check_columns,
)

MAX_USERS = 1 << 31
"""A row is packed as (user code: 31 bits | score: 32 bits | label: 1 bit)."""


@dataclass(frozen=True)
class UserAUC:
    """AUC of every user with both classes, in the order of the users' keys."""

    auc: NDArray[np.float64]
    impressions: NDArray[Any]
    """Rows of each of these users, or the sum of their weights."""
    users_left_out: int
    """Users whose labels are all 0 or all 1: they have no AUC."""

    @property
    def users_counted(self) -> int:
        """Users with both classes."""
        return len(self.auc)

    @property
    def uauc(self) -> float:
        """Plain mean over the users."""
        self._check()
        return float(self.auc.mean())

    @property
    def gauc(self) -> float:
        """Mean over the users, weighted by their impressions."""
        self._check()
        return float((self.auc * self.impressions).sum() / self.impressions.sum())

    def _check(self) -> None:
        if not self.users_counted:
            raise UnimixerError(
                f"UAUC needs a user with both classes, and none of {self.users_left_out:,} has; evaluate more rows"
            )


def auc(scores: Any, labels: Any) -> float:
    r"""Area under the ROC curve: the chance that a positive scores higher than a negative; a tie counts half.

    .. math:: \mathrm{AUC} = \frac{1}{P N} \sum_{p, n} [s_p > s_n] + \tfrac12 [s_p = s_n]

    The sum is taken in integers, so the result is exact up to the one division, and independent of the rows' order.

    Args:
        scores: ``(rows,)``; any order-preserving form, logits or probabilities.
        labels: ``(rows,)`` of 0 and 1, or probabilities: one of p counts as a positive of weight p and a negative
            of weight 1 - p, which is the expectation over labels drawn from them, up to the pair of a row with itself.

    Raises:
        UnimixerError: for a NaN score, a label below 0 or above 1, or labels of one class.

    Example:
        >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
        0.875
    """
    values, classes = as_scores(scores), as_labels(labels)
    check_columns(values, labels=classes)
    return sorted_auc(values, classes)


def user_auc(scores: Any, labels: Any, users: Any) -> UserAUC:
    """AUC within each user, from which UAUC and GAUC follow.

    Args:
        scores: ``(rows,)``
        labels: ``(rows,)`` as in :func:`auc`.
        users: ``(rows,)``; keys of any sortable kind.

    Example:
        >>> user_auc([0.1, 0.9, 0.3, 0.2, 0.5], [0, 1, 0, 1, 1], [7, 7, 8, 8, 9])
        UserAUC(auc=array([1., 0.]), impressions=array([2, 2]), users_left_out=1)
    """
    values, classes, keys = as_scores(scores), as_labels(labels), as_array(users)
    check_columns(values, labels=classes, users=keys)
    return sorted_user_auc(values, classes, user_codes(keys))


def uauc(scores: Any, labels: Any, users: Any) -> float:
    """Plain mean of AUC over the users who have both classes; arguments as in :func:`user_auc`."""
    return user_auc(scores, labels, users).uauc


def gauc(scores: Any, labels: Any, users: Any) -> float:
    """Mean of AUC over the users who have both classes, weighted by impressions; arguments as in :func:`user_auc`."""
    return user_auc(scores, labels, users).gauc


def sorted_auc(scores: Scores, labels: Labels, weights: Weights | None = None) -> float:
    """:func:`auc` of checked columns."""
    check_both_classes(labels)
    groups = _groups(scores, labels, None, weights)
    wins, positives, negatives = (column[0].item() for column in (groups.wins, groups.positives, groups.negatives))
    return float(wins / (2 * positives * negatives))


def sorted_user_auc(
    scores: Scores, labels: Labels, codes: NDArray[np.uint64], weights: Weights | None = None
) -> UserAUC:
    """:func:`user_auc` of checked columns and :func:`user_codes`."""
    groups = _groups(scores, labels, codes, weights)
    pairs = groups.positives * groups.negatives
    counted = pairs > 0
    return UserAUC(
        auc=groups.wins[counted] / (2 * pairs[counted]),
        impressions=groups.rows[counted],
        users_left_out=int((~counted).sum()),
    )


def user_codes(users: NDArray[Any]) -> NDArray[np.uint64]:
    """Order-preserving codes below :data:`MAX_USERS`: a shift where the keys lie close together, else dense ranks."""
    if users.dtype.kind in "iu":
        low = users.min()
        if int(users.max()) - int(low) < MAX_USERS:
            wide = users.astype(np.int64 if users.dtype.itemsize < 8 else users.dtype)
            shifted: NDArray[np.uint64] = (wide - wide.dtype.type(low)).astype(np.uint64)
            return shifted
    codes: NDArray[np.uint64] = np.unique(users, return_inverse=True)[1].astype(np.uint64)
    return codes


def _pack(scores: Scores, labels: HardLabels, codes: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """One sorted unsigned integer a row: user, then score, then label. Sorting integers is vectorised in numpy."""
    packed = _order(scores).astype(np.uint64)
    packed <<= np.uint64(1)
    packed |= labels
    if codes is not None:
        packed |= codes << np.uint64(33)
    packed.sort()
    return packed


def _order(scores: Scores) -> NDArray[np.uint32]:
    """Integers in the order of the scores, ties kept: float32 by its bits, float64 by dense ranks."""
    if scores.dtype != np.float32:
        ranks: NDArray[np.uint32] = np.unique(scores, return_inverse=True)[1].astype(np.uint32)
        return ranks
    bits = scores.view(np.uint32)
    sign = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones where negative
    order: NDArray[np.uint32] = bits ^ (sign | np.uint32(0x80000000))
    return order


class _Groups(NamedTuple):
    """Sums by user, in integers for labels of 0 and 1."""

    wins: NDArray[Any]
    """Twice the pairs that a positive wins; a tie is one."""
    positives: NDArray[Any]
    negatives: NDArray[Any]
    rows: NDArray[Any]


class _Runs(NamedTuple):
    """Sums of the rows of one user and one score, sorted by both."""

    user: NDArray[np.uint64]
    positives: NDArray[Any]
    negatives: NDArray[Any]
    rows: NDArray[Any]


def _groups(
    scores: Scores, labels: Labels, codes: NDArray[np.uint64] | None, weights: Weights | None = None
) -> _Groups:
    if labels.dtype == np.bool_ and weights is None:
        runs = _hard_runs(_pack(scores, labels.astype(np.bool_, copy=False), codes))
    else:
        runs = _soft_runs(scores, labels, np.zeros(len(scores), np.uint64) if codes is None else codes, weights)
    user, positives, negatives, rows = runs
    first = np.flatnonzero(np.concatenate(([True], user[1:] != user[:-1])))  # first run of every user
    below = np.cumsum(negatives) - negatives  # negatives of all earlier runs, other users' included
    below -= np.repeat(below[first], np.diff(np.append(first, len(user))))
    wins = positives * (2 * below + negatives)
    return _Groups(*(np.add.reduceat(column, first) for column in (wins, positives, negatives, rows)))


def _hard_runs(packed: NDArray[np.uint64]) -> _Runs:
    value = packed >> np.uint64(1)
    starts = np.flatnonzero(np.concatenate(([True], value[1:] != value[:-1])))
    positives = np.add.reduceat((packed & np.uint64(1)).view(np.int64), starts)
    rows = np.diff(np.append(starts, len(packed)))
    return _Runs(packed[starts] >> np.uint64(33), positives, rows - positives, rows)


def _soft_runs(scores: Scores, labels: Labels, codes: NDArray[np.uint64], weights: Weights | None) -> _Runs:
    columns = (labels, scores, codes) if weights is None else (weights, labels, scores, codes)
    order = np.lexsort(columns)  # by label and weight too, so that sums do not depend on the rows' order
    user, score, p = codes[order], scores[order], labels[order].astype(np.float64)
    new = (user[1:] != user[:-1]) | (score[1:] != score[:-1])
    starts = np.flatnonzero(np.concatenate(([True], new)))
    w = np.ones(len(order)) if weights is None else weights[order]
    sums = [np.add.reduceat(column, starts) for column in (w * p, w * (1 - p), w)]
    return _Runs(user[starts], *sums)
