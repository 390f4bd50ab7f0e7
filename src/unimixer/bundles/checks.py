"""Compare a written graph with its model: scores of requests, and AUC of held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimixer.bundles.requests import missing, repeated, request_from, unknown, without_sequences
from unimixer.bundles.runners import Scores
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.request import Request, RequestLayout
from unimixer.metrics import MetricAccumulator
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.evaluation import task_columns

TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}
"""Largest difference of a probability, by precision."""
ROWS = 20_000
"""Held-out impressions, each scored as a request of one candidate."""

Score = Callable[[Request], tuple[Scores, Scores]]
"""A written graph: a request to its logits and probabilities."""


@dataclass(frozen=True)
class Difference:
    """Measure how far the scores of one kind of request are from the model's."""

    requests: int
    candidates: int
    logit: float
    probability: float


@dataclass(frozen=True)
class HeldOut:
    """Rows that the model was not trained on.

    Args:
        dataset: the dataset of the run.
        split: the split of the rows.
        tasks: the labels that are scored.
        rows: the number of rows to measure AUC on.
    """

    dataset: Dataset
    split: str
    tasks: tuple[str, ...]
    rows: int = ROWS


def expected_logits(ranker: Ranker, request: Request) -> Tensor:
    """Compute the logits of the trained model on the batch that training would have seen."""
    with torch.no_grad():
        logits: Tensor = ranker(request.batch())
    return logits.float()


def cases(requests: list[Request], largest: int) -> dict[str, list[Request]]:
    """Make requests of every kind that a graph must score right."""
    sizes = [repeated(request, size) for request in requests for size in (1, 2)]
    some = [case for request in requests[:2] for case in (request, repeated(request, 1))]
    return {
        "held out": requests,
        "one and two candidates": sizes,
        f"{largest} candidates": [repeated(requests[0], largest)],
        "empty sequences": [without_sequences(request) for request in some],
        "unknown ids": [unknown(request) for request in some],
        "missing values": [missing(request) for request in some],
    }


def differences(
    score: Score, expected: Callable[[Request], Tensor], kinds: Mapping[str, list[Request]]
) -> dict[str, Difference]:
    """Score every kind of request by the written graph and by the model."""
    by_kind = {}
    for kind, requests in kinds.items():
        logit = probability = 0.0
        for request in requests:
            logits, probabilities = score(request)
            wanted = expected(request)
            logit = _worst(logit, logits, wanted)
            probability = _worst(probability, probabilities, wanted.sigmoid())
        by_kind[kind] = Difference(len(requests), sum(map(len, requests)), logit, probability)
    return by_kind


def _worst(so_far: float, scores: np.ndarray, expected: Tensor) -> float:
    if scores.shape != tuple(expected.shape) or not np.isfinite(scores).all():
        return float("inf")
    return max(so_far, float(np.abs(scores - expected.numpy()).max()))


def check(by_kind: Mapping[str, Difference], tolerance: float) -> None:
    """Raise if a kind of request is further off than the tolerance.

    Raises:
        UnimixerError: the worst kind, its difference and the tolerance.
    """
    kind = max(by_kind, key=lambda name: by_kind[name].probability)
    if not by_kind[kind].probability <= tolerance:
        raise UnimixerError(
            f"the exported graph differs from the model by {by_kind[kind].probability:.2g} in a probability "
            f"({kind}), the tolerance is {tolerance:.0e}; nothing was written"
        )


def auc_change(before: Ranker, after: Score, layout: RequestLayout, data: HeldOut) -> dict[str, dict[str, Any]]:
    """Measure the AUC of every task by the trained model and by the written graph, on rows of a seeded shuffle."""
    metrics = {name: MetricAccumulator(data.tasks, with_users=False) for name in ("before", "after")}
    columns, seen = task_columns(data.dataset, data.tasks), 0
    with torch.no_grad(), progress_bar("measuring AUC before and after", data.rows) as advance:
        for batch in Loader(data.dataset, data.split, batch_size=1_024, shuffle=True, num_workers=0).batches():
            taken = min(len(batch), data.rows - seen)
            assert batch.labels is not None
            labels = batch.labels[:taken, columns]
            requests = (request_from(batch, layout, row, row, row + 1) for row in range(taken))
            logits = torch.cat([torch.from_numpy(after(request)[0]) for request in requests])
            metrics["before"].update(before(batch)[:taken].float(), labels)
            metrics["after"].update(logits, labels)
            seen += taken
            advance(taken)
            if seen >= data.rows:
                break
    try:
        results = {name: accumulator.compute() for name, accumulator in metrics.items()}
    except UnimixerError as error:
        raise UnimixerError(f"AUC of {seen} {data.split} rows: {error}; pass more --auc-rows") from None
    return {
        task: {name: results[name][task].auc for name in results} | {"rows": seen, "split": data.split}
        for task in data.tasks
    }
