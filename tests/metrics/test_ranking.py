from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from unimixer.errors import UnimixerError
from unimixer.metrics import auc, gauc, uauc, user_auc

Floats = NDArray[np.float32]


def pair_count(scores: Floats, labels: NDArray[np.int8]) -> float:
    """AUC by its definition: every positive meets every negative."""
    pairs = list(product(scores[labels == 1], scores[labels == 0]))
    return float(sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs))


def draw(
    seed: int, rows: int, *, levels: int, users: int
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels + 1, rows) / levels).astype(np.float32)
    labels = (rng.random(rows) < 0.4).astype(np.int8)
    labels[:2] = 0, 1
    return scores, labels, rng.integers(0, users, rows)


def by_hand(scores: Floats, labels: NDArray[np.int8], users: NDArray[np.int64]) -> tuple[list[float], list[int], int]:
    areas, rows, left_out = [], [], 0
    for user in np.unique(users):
        mine = users == user
        if len(np.unique(labels[mine])) < 2:
            left_out += 1
            continue
        areas.append(pair_count(scores[mine], labels[mine]))
        rows.append(int(mine.sum()))
    return areas, rows, left_out


def test_a_tie_counts_half_in_the_case_worked_by_hand() -> None:
    # pairs: (.4 over .1) + (.4 ties .4) + (.8 over .1) + (.8 over .4) = 3.5 of 4
    assert auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]) == 0.875


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 60), levels=st.integers(1, 30))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int, rows: int, levels: int) -> None:
    scores, labels, _ = draw(seed, rows, levels=levels, users=1)
    assert auc(scores, labels) == pytest.approx(pair_count(scores, labels), abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [3, 10_000_000])
def test_auc_equals_scikit_learn(dtype: type[np.floating], levels: int) -> None:
    scores, labels, _ = draw(1, 20_000, levels=levels, users=1)
    assert auc(scores.astype(dtype), labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_float64_scores_closer_than_float32_can_tell_are_not_ties() -> None:
    assert auc(np.array([1.0, 1.0 + 1e-12]), [0, 1]) == 1.0
    assert auc(np.array([1.0, 1.0 + 1e-12], dtype=np.float32), [0, 1]) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_of_both_signs_tie_and_infinities_are_ordered(dtype: type[np.floating]) -> None:
    assert auc(np.array([-0.0, 0.0], dtype), [0, 1]) == 0.5
    assert auc(np.array([-np.inf, -1e30, np.inf], dtype), [0, 0, 1]) == 1.0


@given(seed=st.integers(0, 10_000), rows=st.integers(4, 80), users=st.integers(1, 12))
def test_user_auc_equals_pair_counting_user_by_user(seed: int, rows: int, users: int) -> None:
    scores, labels, keys = draw(seed, rows, levels=4, users=users)
    areas, counts, left_out = by_hand(scores, labels, keys)
    found = user_auc(scores, labels, keys)
    assert found.auc == pytest.approx(areas)
    assert found.impressions.tolist() == counts
    assert (found.users_counted, found.users_left_out) == (len(areas), left_out)
    if areas:
        assert uauc(scores, labels, keys) == pytest.approx(np.mean(areas), abs=1e-12)
        assert gauc(scores, labels, keys) == pytest.approx(np.average(areas, weights=counts), abs=1e-12)


def test_uauc_and_gauc_do_not_move_when_all_scores_of_one_user_shift() -> None:
    scores, labels, users = draw(3, 2_000, levels=64, users=50)
    shifted = np.where(users == 7, scores + 4, scores)  # exact in float32: multiples of 1/64
    assert uauc(shifted, labels, users) == uauc(scores, labels, users)
    assert gauc(shifted, labels, users) == gauc(scores, labels, users)
    assert auc(shifted, labels) != auc(scores, labels)


def test_gauc_weighs_by_impressions_and_uauc_does_not() -> None:
    scores = [1.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    labels = [0, 1, 0, 1, 1, 1]  # user 0: AUC 1 on 2 rows; user 1: AUC 0 on 4 rows
    users = [0, 0, 1, 1, 1, 1]
    assert uauc(scores, labels, users) == 0.5
    assert gauc(scores, labels, users) == pytest.approx(2 / 6)


def test_only_the_grouping_of_users_matters_not_the_form_of_their_keys() -> None:
    scores, labels, users = draw(4, 500, levels=9, users=20)
    expected = user_auc(scores, labels, users)
    forms = [
        (users - 10).astype(np.int8),
        users + (1 << 62),
        users * (1 << 50),
        (users + 100).astype(np.uint64),
        np.array([f"user-{u:03d}" for u in users]),
        torch.from_numpy(users),
    ]
    for keys in forms:
        found = user_auc(scores, labels, keys)
        assert np.array_equal(found.auc, expected.auc)
        assert np.array_equal(found.impressions, expected.impressions)


def test_tensors_of_bfloat16_with_a_gradient_are_scores() -> None:
    scores = torch.tensor([0.1, 0.4, 0.4, 0.8], dtype=torch.bfloat16, requires_grad=True)
    assert auc(scores, torch.tensor([0.0, 0.0, 1.0, 1.0])) == 0.875


def test_bad_columns_are_refused_in_one_sentence() -> None:
    with pytest.raises(UnimixerError, match=r"scores, row 1: nan is not a score"):
        auc([0.1, float("nan")], [0, 1])
    with pytest.raises(UnimixerError, match=r"labels, row 2: 2 is not a label"):
        auc([0.1, 0.2, 0.3], [0, 1, 2])
    with pytest.raises(UnimixerError, match=r"labels, row 0: nan is not a label"):
        auc([0.1, 0.2], [float("nan"), 1])
    with pytest.raises(UnimixerError, match=r"AUC needs both classes: label is 0 in all 3 rows"):
        auc([0.1, 0.2, 0.3], [0, 0, 0])
    with pytest.raises(UnimixerError, match=r"labels has shape \(3,\), expected \(2,\)"):
        auc([0.1, 0.2], [0, 1, 1])
    with pytest.raises(UnimixerError, match=r"users has shape \(1,\), expected \(2,\)"):
        uauc([0.1, 0.2], [0, 1], [1])
    with pytest.raises(UnimixerError, match="no rows"):
        auc([], [])
    with pytest.raises(UnimixerError, match="expected numbers"):
        auc(["a", "b"], [0, 1])
    with pytest.raises(UnimixerError, match=r"UAUC needs a user with both classes, and none of 2 has"):
        uauc([0.1, 0.2], [0, 1], [1, 2])
