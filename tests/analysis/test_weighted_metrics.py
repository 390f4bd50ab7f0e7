"""Metrics of drawn users with soft labels and a known truth are those of a table that repeats the users' rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unimixer.analysis.significance import UserBootstrap, difference
from unimixer.analysis.weighted_metrics import LabelledRows
from unimixer.errors import UnimixerError
from unimixer.metrics import auc, excess_log_loss, log_loss, normalised_entropy

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "auc": auc,
    "log_loss": log_loss,
    "ne": normalised_entropy,
    "excess_log_loss": excess_log_loss,
}


def draw(rows: int = 400, users: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.random(rows).astype(np.float32)
    p[:3] = 0, 1, 0.5
    logits = (np.log((p + 0.01) / (1.01 - p)) + rng.normal(size=rows)).astype(np.float32).round(1)
    return logits, p, np.concatenate([np.arange(users), rng.integers(0, users, rows - users)])


@pytest.mark.parametrize("metric", METRICS)
def test_a_user_counts_as_often_as_it_is_drawn(metric: str) -> None:
    logits, p, users = draw()
    counts = np.random.default_rng(1).integers(0, 4, (3, 30)).astype(np.uint8)
    values = LabelledRows(p, users, truth=p).weighted(metric, logits)(counts)
    for value, drawn in zip(values, counts, strict=True):
        rows = np.repeat(np.arange(len(p)), drawn[users])
        assert value == pytest.approx(METRICS[metric](logits[rows], p[rows]), rel=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_hard_labels_may_have_a_truth(metric: str) -> None:
    logits, p, users = draw()
    labels = np.random.default_rng(2).random(len(p)) < p
    values = LabelledRows(labels, users, truth=p).weighted(metric, logits)(np.ones((1, 30), np.uint8))
    against = p if metric == "excess_log_loss" else labels
    assert values[0] == pytest.approx(METRICS[metric](logits, against), rel=1e-9)


def test_the_excess_is_a_metric_where_the_truth_is_known_only() -> None:
    _, p, users = draw()
    assert "excess_log_loss" in LabelledRows(p, users, truth=p).metrics
    assert "excess_log_loss" not in LabelledRows(p, users).metrics
    with pytest.raises(UnimixerError, match=r"truth has shape \(2,\)"):
        LabelledRows(p, users, truth=p[:2])


def test_without_users_the_bootstrap_draws_rows_and_has_the_standard_error_of_the_mean() -> None:
    logits, p, _ = draw(2_000)
    rows = LabelledRows(p, truth=p)
    bootstrap = UserBootstrap(rows.num_users, replicates=400)
    worse = logits + np.float32(0.3)
    (value, draws), (other, other_draws) = (bootstrap.values(rows, "excess_log_loss", s) for s in (logits, worse))
    result = difference([value], [other], draws[None], other_draws[None], num_users=rows.num_users)
    x, y = (np.array([excess_log_loss(s[i : i + 1], p[i : i + 1]) for i in range(len(p))]) for s in (logits, worse))
    assert result.estimate == pytest.approx((x - y).mean(), rel=1e-9)
    assert result.users_deviation == pytest.approx((x - y).std(ddof=1) / np.sqrt(len(p)), rel=0.15)
