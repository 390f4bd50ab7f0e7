"""NDCG, MRR, hit rate: against scikit-learn, by hand, and over all orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from unimixer.errors import UnimixerError
from unimixer.metrics import hit_rate, mrr, ndcg


def draw(lists: int = 60, rows: int = 12, seed: int = 0, *, soft: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((lists, rows)).round(1)  # many ties
    labels = rng.random((lists, rows)) if soft else (rng.random((lists, rows)) < 0.2).astype(float)
    return scores, labels


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10, None])
def test_ndcg_equals_scikit_learn_with_ties(k: int | None, soft: bool) -> None:
    scores, labels = draw(soft=soft)
    counted = labels.sum(axis=1) > 0
    keys = np.repeat(np.arange(len(scores)), scores.shape[1])
    expected = ndcg_score(labels[counted], scores[counted], k=k)
    assert ndcg(scores.ravel(), labels.ravel(), keys, k) == pytest.approx(expected, abs=1e-12)


def test_mrr_of_one_positive_equals_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.standard_normal((50, 9)), np.eye(9)[rng.integers(0, 9, 50)]
    keys = np.repeat(np.arange(50) * 7 + 3, 9)
    expected = label_ranking_average_precision_score(labels, scores)
    assert mrr(scores.ravel(), labels.ravel(), keys) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ties_give_the_mean_over_all_orders(labels: list[int], k: int) -> None:
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    places = [next(i for i, row in enumerate(order, 1) if labels[row]) for order in _orders(scores)]
    key = np.zeros(5, dtype=int)
    assert hit_rate(scores, labels, key, k) == pytest.approx(np.mean([p <= k for p in places]), abs=1e-12)
    assert mrr(scores, labels, key, k) == pytest.approx(np.mean([(p <= k) / p for p in places]), abs=1e-12)
    assert mrr(scores, labels, key) == pytest.approx(np.mean([1 / p for p in places]), abs=1e-12)


def _orders(scores: np.ndarray) -> list[tuple[int, ...]]:
    orders = permutations(range(len(scores)))
    return [
        order for order in orders if all(a >= b for a, b in zip(scores[[*order]], scores[[*order[1:]]], strict=False))
    ]


def test_values_by_hand_over_two_lists() -> None:
    scores, labels, lists = [3, 2, 1, 3, 2, 1], [0, 0, 1, 1, 0, 0], ["b", "b", "b", "a", "a", "a"]
    assert mrr(scores, labels, lists) == pytest.approx((1 / 3 + 1) / 2)
    assert hit_rate(scores, labels, lists, 2) == 0.5
    assert ndcg(scores, labels, lists) == pytest.approx((1 / np.log2(4) + 1) / 2)
    assert ndcg(scores, labels, lists, 2) == 0.5


def test_lists_without_a_positive_or_of_one_row_do_not_count() -> None:
    scores, labels, lists = [3, 2, 5, 1, 0, 9], [0, 1, 1, 0, 0, 1], [1, 1, 2, 3, 3, 4]
    assert mrr(scores, labels, lists) == 0.5
    with pytest.raises(UnimixerError, match="no list of two rows or more has a positive in 2 rows"):
        mrr([1.0, 2.0], [0, 0], [1, 1])


def test_the_order_of_the_rows_changes_no_bit() -> None:
    scores, labels = (column.ravel() for column in draw(soft=True))
    keys = np.repeat(np.arange(60), 12)
    order = np.random.default_rng(3).permutation(len(keys))
    assert ndcg(scores, labels, keys, 5) == ndcg(scores[order], labels[order], keys[order], 5)


def test_a_million_tied_rows_take_no_time() -> None:
    labels = np.zeros(1_000_000)
    labels[::100] = 1
    assert hit_rate(np.zeros(1_000_000), labels, np.zeros(1_000_000, dtype=int), 10) == pytest.approx(0.0956, abs=1e-3)


@pytest.mark.parametrize("positives", [1, 2])
def test_long_ties_have_every_place_as_often(positives: int) -> None:
    rows, k = 300_000, 1_000
    labels = np.zeros(rows)
    labels[:positives] = 1
    place = np.arange(1, rows + 1)
    chance = np.full(rows, 1 / rows) if positives == 1 else 2 * (rows - place) / rows / (rows - 1)
    given = np.append(9.0, np.zeros(rows)), np.append(0.0, labels), np.zeros(rows + 1, dtype=int)
    assert mrr(*given) == pytest.approx((chance / (place + 1)).sum(), rel=1e-9)  # behind one better row
    assert hit_rate(*given, k) == pytest.approx(chance[: k - 1].sum(), rel=1e-9)


def test_soft_labels_have_no_first_positive() -> None:
    with pytest.raises(UnimixerError, match="need labels of 0 and 1"):
        mrr([1.0, 2.0], [0.5, 0.2], [0, 0])
