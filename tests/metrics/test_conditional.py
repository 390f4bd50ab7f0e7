"""Metrics of a label given the one before it in a chain."""

from __future__ import annotations

import numpy as np
import pytest

from unimixer.errors import UnimixerError
from unimixer.metrics import MetricAccumulator, auc, conditional_logits, log_loss

TASKS, CHAIN = ("click", "like"), {"like": "click"}


def logit(p: np.ndarray) -> np.ndarray:
    logits: np.ndarray = np.log(p) - np.log1p(-p)
    return logits


def rows(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Joint logits, labels, users, and the conditional probability behind them."""
    rng = np.random.default_rng(0)
    click, like = rng.uniform(0.05, 0.9, count), rng.uniform(0.05, 0.9, count)
    clicked = rng.random(count) < click
    liked = clicked & (rng.random(count) < like)
    return logit(np.stack([click, click * like], 1)), np.stack([clicked, liked], 1), rng.integers(0, 20, count), like


def test_a_conditional_logit_is_that_of_the_quotient() -> None:
    logits, _, _, like = rows()
    np.testing.assert_allclose(conditional_logits(logits[:, 1], logits[:, 0]), logit(like), rtol=1e-9)
    narrow = logits.astype(np.float32)
    np.testing.assert_allclose(conditional_logits(narrow[:, 1], narrow[:, 0]), logit(like), atol=1e-4)
    extreme = conditional_logits(*np.array([[-200.0, 50.0, -100.0], [-150.0, 50.0, -100.0]], dtype=np.float32))
    np.testing.assert_allclose(extreme[0], -50.0)
    assert np.isfinite(extreme).all()
    assert (extreme[1:] > 15).all()


def test_the_rows_are_those_where_the_label_before_happened() -> None:
    logits, labels, users, like = rows()
    metrics = MetricAccumulator(TASKS, chain=CHAIN)
    metrics.update(logits, labels, users)
    found, clicked = metrics.compute(), labels[:, 0]
    assert list(found) == ["click", "like", "like_given_click"]
    given = found["like_given_click"]
    assert given.num_rows == clicked.sum()
    assert given.auc == pytest.approx(auc(like[clicked], labels[clicked, 1]), abs=1e-12)
    assert given.log_loss == pytest.approx(log_loss(logit(like[clicked]), labels[clicked, 1]), rel=1e-9)
    assert given.calibration == pytest.approx(like[clicked].sum() / labels[clicked, 1].sum(), rel=1e-9)
    assert given.users_counted + given.users_left_out == len(set(users[clicked]))
    plain = MetricAccumulator(TASKS)
    plain.update(logits, labels, users)
    assert plain.compute() == {task: found[task] for task in TASKS}


def test_parts_merge_to_the_same_metrics() -> None:
    logits, labels, users, _ = rows()
    whole = MetricAccumulator(TASKS, chain=CHAIN)
    whole.update(logits, labels, users)
    parts = [MetricAccumulator(TASKS, chain=CHAIN) for _ in range(2)]
    for part, chosen in zip(parts, (slice(150, None), slice(150)), strict=True):
        part.update(logits[chosen], labels[chosen], users[chosen])
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()
    other = MetricAccumulator(TASKS)
    with pytest.raises(UnimixerError, match="chain"):
        other.merge(whole)


def test_rows_without_both_classes_have_no_conditional_auc() -> None:
    logits, labels, users, _ = rows()
    metrics = MetricAccumulator(TASKS, chain=CHAIN)
    chosen = ~labels[:, 0] | labels[:, 1]
    metrics.update(logits[chosen], labels[chosen], users[chosen])
    with pytest.raises(UnimixerError, match="label 'like_given_click' is 1 in all"):
        metrics.compute()
