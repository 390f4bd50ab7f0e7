"""Metrics of a file of scores, of this library or another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from unimixer.errors import UnimixerError
from unimixer.evaluation import ScoreColumns, evaluate_predictions


def scores_frame(rows: int = 600) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    p = rng.random(rows).round(3)
    return pl.DataFrame(
        {
            "click": (rng.random(rows) < p).astype(int),
            "score": p,
            "user": [f"u{number}" for number in rng.integers(0, 40, rows)],
            "request": [f"r{number // 6}" for number in range(rows)],
            "weight": rng.random(rows),
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_metrics_equal_scikit_learn(kind: str, tmp_path: Path) -> None:
    frame, path = scores_frame(), tmp_path / f"scores.{kind}"
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    columns = ScoreColumns("click", user="user", request="request", weight="weight")
    found = evaluate_predictions(path, columns, metrics=("NDCG@3", "ece"))["click"]
    y, p, w = (frame[name].to_numpy() for name in ("click", "score", "weight"))
    assert found.auc == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert found.log_loss == pytest.approx(log_loss(y, p.clip(1e-9, 1 - 1e-9), sample_weight=w), abs=1e-6)
    assert found.calibration == pytest.approx((w * p).sum() / (w * y).sum(), rel=1e-6)
    labels, scores = y.reshape(-1, 6), p.reshape(-1, 6)
    counted = labels.sum(axis=1) > 0
    assert found.asked["ndcg@3"] == pytest.approx(ndcg_score(labels[counted], scores[counted], k=3), abs=1e-12)
    assert found.users_counted == 40


def test_logits_probabilities_and_graded_labels_agree(tmp_path: Path) -> None:
    frame = scores_frame().filter(pl.col("score").is_between(0.01, 0.99))
    logit = (pl.col("score") / (1 - pl.col("score"))).log()
    frame.with_columns(logit=logit, rating=1 + 3 * pl.col("click")).write_parquet(tmp_path / "scores.parquet")
    first = evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("click"))["click"]
    columns = ScoreColumns("rating", score="logit", logits=True, threshold=4)
    second = evaluate_predictions(tmp_path / "scores.parquet", columns)["rating"]
    assert second.auc == first.auc
    assert second.log_loss == pytest.approx(first.log_loss, abs=1e-9)


def test_tiny_probabilities_keep_their_order(tmp_path: Path) -> None:
    scores = {"click": [0, 0, 1, 0, 1], "score": [0.0, 1e-30, 1e-20, 1e-25, 1.0]}
    pl.DataFrame(scores).write_parquet(tmp_path / "scores.parquet")
    found = evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("click"))["click"]
    assert found.auc == 1.0
    assert np.isfinite(found.log_loss)


def test_rows_without_a_user_are_groups_of_their_own(tmp_path: Path) -> None:
    pl.DataFrame({"click": [1, 0, 1, 0], "score": [0.9, 0.1, 0.2, 0.8], "user": ["a", "a", None, None]}).write_parquet(
        tmp_path / "scores.parquet"
    )
    found = evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("click", user="user"))["click"]
    assert (found.uauc, found.users_counted, found.users_left_out) == (1.0, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 1.5}, r"row 1: score=1\.5 is not a probability; pass --logits if the scores are logits"),
        ({"click": 3}, "is not 0 or 1; give label 'click' a threshold if"),
        ({"score": None}, "is missing; write a score for every row"),
    ],
)
def test_a_wrong_value_is_one_sentence(change: dict[str, float], message: str, tmp_path: Path) -> None:
    frame = scores_frame(20)
    for name, value in change.items():
        frame = frame.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(name).alias(name))
    frame.write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UnimixerError, match=message):
        evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("click"))


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    scores_frame(20).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UnimixerError, match=r"'clik'.*did you mean 'click'"):
        evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("clik"))


def test_a_threshold_is_a_finite_number(tmp_path: Path) -> None:
    scores_frame(20).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UnimixerError, match=r"threshold.*finite number"):
        evaluate_predictions(tmp_path / "scores.parquet", ScoreColumns("click", threshold=float("nan")))
