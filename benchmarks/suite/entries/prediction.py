"""Scores for raw rows: many at once, and in the small requests of a service."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, Work
from benchmarks.suite.entries.stores import no_bars, world, world_dataset
from unimixer.predictor import Predictor
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.train import train

ROWS = 20_000
REQUEST = 64
"""Candidates of a small request."""


class Inputs(NamedTuple):
    """Hold a run and raw rows."""

    run: Path
    rows: pl.DataFrame
    device: str


def inputs(case: Case, setting: Setting) -> Inputs:
    """Train a run of one step and take the first rows of its log."""
    dataset = world_dataset(setting.folder / "dataset", ROWS)
    recipe = {
        "name": "benchmark",
        "dataset": str(dataset.folder),
        "model": {"backbone": case["model"], "dense_params": "300K"},
        "training": {"max_steps": 1, "device": setting.device.type},
    }
    with no_bars():
        train(parse(Recipe, recipe, where="benchmark"), folder=setting.folder / "run", quiet=True)
    rows = next(iter(world(ROWS).impressions())).frame.head(case["rows"])
    return Inputs(setting.folder / "run", rows, setting.device.type)


def _predict(data: Inputs, *, request: int | None) -> Prepared:
    predictor = Predictor(data.run, device=data.device)
    size = request or data.rows.height

    def run() -> pl.DataFrame:
        slices = data.rows.iter_slices(size)
        return pl.concat([predictor.predict(rows) for rows in slices])

    def results() -> dict[str, Tensor]:
        return {"scores": torch.from_numpy(run().to_numpy().copy())}

    return Prepared(run, results)


BENCHMARKS = (
    Benchmark(
        name="prediction",
        measures=f"scores of raw rows with a finished run: in requests of {REQUEST}, and all rows at once",
        inputs=inputs,
        implementations={
            f"requests of {REQUEST}": partial(_predict, request=REQUEST),
            "all at once": partial(_predict, request=None),
        },
        cases=(
            Case.of(model="unimixer-lite", rows=4096),
            Case.of(small=False, model="rankmixer", rows=4096),
            Case.of(small=False, model="unimixer-lite", rows=512),
            Case.of(small=False, model="unimixer-lite", rows=20_000),
        ),
        work=lambda case: Work(rows=case["rows"]),
    ),
)
