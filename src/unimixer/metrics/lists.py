"""NDCG, MRR and hit rate of the lists of a request or a user: exact, and the same for any order of the rows.

A list counts where it has a positive, and a second row to rank it against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.metrics.columns import Labels, Scores, as_array, as_labels, as_scores, check_columns
from unimixer.metrics.ranking import user_codes

Floats = NDArray[np.float64]
LONG_TIE = 256
"""Rows of one score from which on a list is computed by itself."""


def ndcg(scores: Any, labels: Any, lists: Any, k: int | None = None) -> float:
    r"""Mean normalized discounted cumulative gain over the lists.

    .. math:: \mathrm{DCG@}k = \sum_{i=1}^{k} \frac{y_i}{\log_2(i + 1)}, \qquad
        \mathrm{NDCG@}k = \frac{\mathrm{DCG@}k}{\max_{\text{order}} \mathrm{DCG@}k}

    Järvelin and Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques (2002). Rows of equal scores share the
    mean gain of their places, as in ``sklearn.metrics.ndcg_score``.

    Args:
        scores: ``(rows,)``
        labels: ``(rows,)`` of 0 and 1, or probabilities, which are then the gains.
        lists: ``(rows,)`` keys of the requests or users.
        k: places that count (default: all).

    Example:
        >>> round(ndcg([0.3, 0.2, 0.1], [0, 1, 0], [7, 7, 7]), 6)
        0.63093
    """
    return list_ndcg(_checked(scores, labels, lists), k)


def mrr(scores: Any, labels: Any, lists: Any, k: int | None = None) -> float:
    """Mean reciprocal rank: one over the place of the first positive, 0 beyond place ``k``; arguments as in ``ndcg``.

    Rows of equal scores stand in random order, and the value is the expectation over it.

    Example:
        >>> mrr([0.3, 0.2, 0.1], [0, 1, 0], [7, 7, 7])
        0.5
    """
    return list_mrr(_checked(scores, labels, lists, hard=True), k)


def hit_rate(scores: Any, labels: Any, lists: Any, k: int) -> float:
    """Share of the lists that have a positive in the first ``k`` places; arguments and ties as in ``mrr``.

    Example:
        >>> hit_rate([0.3, 0.2, 0.1], [0, 1, 0], [7, 7, 7], k=1)
        0.0
    """
    return list_hit_rate(_checked(scores, labels, lists, hard=True), k)


class Lists(NamedTuple):
    """Rows of the lists that count, as runs of equal scores, best score first."""

    owner: NDArray[np.int64]
    """Number of the list of every run."""
    before: NDArray[np.int64]
    """Rows of the list with a better score."""
    rows: NDArray[np.int64]
    gains: Floats
    """Sum of the labels of a run."""
    ideal: Callable[[int | None], Floats]
    """DCG@k of the best order of every list."""


def sorted_lists(scores: Scores, labels: Labels, codes: NDArray[np.uint64]) -> Lists | None:
    """Sort checked columns and the :func:`user_codes` of their lists; None where no list counts."""
    gains = labels.astype(np.float64)
    order = np.lexsort((gains, -scores, codes))  # by the label too, so that sums do not depend on the rows' order
    owner, score, gain = codes[order], scores[order], gains[order]
    starts = _starts(owner)
    sizes = np.diff(np.append(starts, len(order)))
    good = np.repeat((np.add.reduceat(gain, starts) > 0) & (sizes > 1), sizes)
    if not good.any():
        return None
    owner, score, gain = owner[good], score[good], gain[good]
    starts = _starts(owner)
    sizes = np.diff(np.append(starts, len(owner)))
    number, place = np.repeat(np.arange(len(starts)), sizes), np.arange(len(owner)) - np.repeat(starts, sizes)
    runs = np.flatnonzero(np.concatenate(([True], (owner[1:] != owner[:-1]) | (score[1:] != score[:-1]))))
    rows = np.diff(np.append(runs, len(owner)))
    best = gain[np.lexsort((-gain, number))]

    def ideal(k: int | None) -> Floats:
        return np.add.reduceat(best * np.diff(_discounts(len(best), k))[place], starts)

    return Lists(number[runs], place[runs], rows, np.add.reduceat(gain, runs), ideal)


def list_ndcg(lists: Lists, k: int | None) -> float:
    """:func:`ndcg` of sorted lists."""
    total = _discounts(int((lists.before + lists.rows).max()), k)
    gains = lists.gains / lists.rows * (total[lists.before + lists.rows] - total[lists.before])
    return float((np.add.reduceat(gains, _starts(lists.owner)) / lists.ideal(k)).mean())


def list_mrr(lists: Lists, k: int | None) -> float:
    """:func:`mrr` of sorted lists."""
    return _expected(lists, k, lambda place: 1.0 / place)


def list_hit_rate(lists: Lists, k: int | None) -> float:
    """:func:`hit_rate` of sorted lists."""
    return _expected(lists, k, np.ones_like)


def _expected(lists: Lists, k: int | None, value: Callable[[Floats], Floats]) -> float:
    r"""Mean over lists of the expected value of the place of the first positive, up to place k.

    Of m rows of equal scores with g positives, the first positive is the j-th with probability

    .. math:: P(1) = \frac gm, \qquad P(j + 1) = P(j) \frac{m - g - j + 1}{m - j}
    """
    positive = np.flatnonzero(lists.gains > 0)
    first = positive[_starts(lists.owner[positive])]
    before, m, g = (column[first].astype(np.float64) for column in (lists.before, lists.rows, lists.gains))
    sums, chance, left = np.zeros(len(first)), g / m, np.arange(len(first))
    j = 1
    while len(left) and j < LONG_TIE:
        place = before[left] + j
        inside = place <= (np.inf if k is None else k)
        left, place = left[inside], place[inside]
        sums[left] += chance[left] * value(place)
        left = left[(m[left] - g[left] - j + 1 > 0) & (chance[left] > 0)]
        chance[left] *= (m[left] - g[left] - j + 1) / (m[left] - j)
        j += 1
    for one in left:  # few lists have more rows of one score: all their places at once
        rest = np.arange(j, m[one] - g[one] + 1)
        chances = chance[one] * np.cumprod(np.append(1.0, (m[one] - g[one] - rest + 1) / (m[one] - rest)))
        place = before[one] + np.append(rest, m[one] - g[one] + 1)
        sums[one] += (chances * value(place))[place <= (np.inf if k is None else k)].sum()
    return float(sums.mean())


def _discounts(places: int, k: int | None) -> Floats:
    """Sums of the discounts of the first 0, 1, ... places; those beyond k add nothing."""
    discounts = 1 / np.log2(np.arange(places) + 2.0)
    if k is not None:
        discounts[k:] = 0.0
    return np.concatenate(([0.0], np.cumsum(discounts)))


def _starts(sorted_keys: NDArray[Any]) -> NDArray[np.int64]:
    return np.flatnonzero(np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])))


def _checked(scores: Any, labels: Any, lists: Any, *, hard: bool = False) -> Lists:
    values, classes, keys = as_scores(scores), as_labels(labels), as_array(lists)
    check_columns(values, labels=classes, lists=keys)
    if hard and classes.dtype != np.bool_:
        raise UnimixerError("MRR and the hit rate need labels of 0 and 1; of probabilities, measure NDCG")
    found = sorted_lists(values, classes, user_codes(keys))
    if found is None:
        raise UnimixerError(f"no list of two rows or more has a positive in {len(values):,} rows; evaluate more rows")
    return found
