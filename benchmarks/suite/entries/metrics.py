"""AUC, UAUC and GAUC: one sort of packed integers beside average ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, Work
from unimixer.metrics import auc, user_auc


class Scored(NamedTuple):
    """Scores, labels and users of all rows."""

    scores: NDArray[Any]
    labels: NDArray[Any]
    users: NDArray[Any]


def inputs(case: Case, setting: Setting) -> Scored:
    """Scores that say something about the labels, and users of very different activity."""
    rng = np.random.default_rng(int(setting.integers(2**31, 1)))
    scores = rng.standard_normal(case["rows"], dtype=np.float32)
    labels = (rng.random(case["rows"]) < 1 / (1 + np.exp(-scores))).astype(np.float32)
    return Scored(scores, labels, rng.zipf(1.3, case["rows"]).clip(max=500_000))


def by_ranks(data: Scored) -> tuple[float, float, float]:
    """Compute by the textbook: the sum of the positives' average ranks, for all rows and within every user."""
    rows = pl.DataFrame({"score": data.scores, "label": data.labels, "user": data.users})
    rows = rows.with_columns(pl.col("label").cast(pl.Float64), pl.col("score").rank("average").alias("rank"))
    rows = rows.with_columns(pl.col("score").rank("average").over("user").alias("rank in user"))

    def area(rank: str) -> pl.Expr:
        positives = pl.col("label").sum()
        wins = (pl.col(rank) * pl.col("label")).sum() - positives * (positives + 1) / 2
        return wins / (positives * (pl.len() - positives))

    overall = float(rows.select(area("rank")).item())
    users = rows.group_by("user").agg(area("rank in user").alias("auc"), pl.len().alias("rows"))
    users = users.filter(pl.col("auc").is_finite())
    weighted = (pl.col("auc") * pl.col("rows")).sum() / pl.col("rows").sum()
    mean, by_rows = users.select(pl.col("auc").mean(), weighted.alias("weighted")).row(0)
    return overall, float(mean), float(by_rows)


def packed(data: Scored) -> tuple[float, float, float]:
    """Compute the metrics as evaluation does."""
    by_user = user_auc(data.scores, data.labels, data.users)
    return auc(data.scores, data.labels), by_user.uauc, by_user.gauc


def _prepare(data: Scored, function: Any) -> Prepared:
    def results() -> dict[str, Tensor]:
        return dict(zip(("AUC", "UAUC", "GAUC"), map(torch.tensor, function(data)), strict=True))

    return Prepared(lambda: function(data), results)


BENCHMARKS = (
    Benchmark(
        name="metrics",
        measures="AUC, UAUC and GAUC of float32 scores: against the rows",
        inputs=inputs,
        implementations={
            "average ranks": lambda data: _prepare(data, by_ranks),
            "packed integers": lambda data: _prepare(data, packed),
        },
        cases=(Case.of(rows=100_000), Case.of(rows=1_000_000), Case.of(small=False, rows=10_000_000)),
        work=lambda case: Work(rows=case["rows"]),
        tolerance=1e-6,
        devices=("cpu",),
    ),
)
