"""The loader alone: one epoch of batches, against batch size, histories and workers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, Work
from benchmarks.suite.entries.stores import world_dataset
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader

TRAINING = 0.8
"""Share of the rows that are in the training part."""


def inputs(case: Case, setting: Setting) -> tuple[Dataset, int]:
    """Prepare a dataset and choose the batch size."""
    return world_dataset(setting.folder / "dataset", case["rows"], history=case["history"]), case["batch"]


def _epoch(data: tuple[Dataset, int], *, workers: int) -> Prepared:
    dataset, batch_size = data
    loader = Loader(dataset, "train", batch_size=batch_size, shuffle=True, num_workers=workers)

    def run() -> int:
        return sum(len(batch) for batch in loader.batches())

    def results() -> dict[str, Tensor]:
        batches = list(loader.batches())
        return {
            "rows": torch.tensor([len(batch) for batch in batches]),
            "ids": torch.cat([batch.sparse_ids for batch in batches]),
            "events": torch.cat([values for batch in batches for values in batch.sequence_values.values()]),
        }

    return Prepared(run, results)


BENCHMARKS = (
    Benchmark(
        name="loader",
        measures="one shuffled epoch of batches from a prepared dataset: against batch size and length of histories",
        inputs=inputs,
        implementations={
            "on demand": partial(_epoch, workers=0),
            "1 worker": partial(_epoch, workers=1),
            "2 workers": partial(_epoch, workers=2),
        },
        cases=(
            Case.of(batch=512, history=10, rows=50_000),
            Case.of(batch=512, history=50, rows=50_000),
            Case.of(batch=4096, history=50, rows=50_000),
            Case.of(small=False, batch=512, history=50, rows=1_000_000),
        ),
        work=lambda case: Work(rows=TRAINING * case["rows"]),
        tolerance=0.0,
        devices=("cpu",),
    ),
)
