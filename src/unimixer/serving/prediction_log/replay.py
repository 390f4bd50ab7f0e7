"""Compute the answers of a prediction log again, and compare scores and feature hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.encoding.layout import request_layout
from unimixer.features.request import Request
from unimixer.progress import progress_bar
from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.encoding.request import EncodedCall, RankCall, RequestEncoder
from unimixer.serving.engine import Scorer
from unimixer.serving.prediction_log.writer import read_log
from unimixer.serving.stores.base import FeatureStore

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """Describe a candidate whose score differs from the logged one."""

    request_id: str
    item: str | None
    task: str
    logged: float
    computed: float
    changed: str
    """Rows that the store has changed since: ``user``, ``item``, ``user and item``, or empty."""
    features: tuple[str, ...]
    """Names of the features of the request whose encoded values differ."""


@dataclass
class Parity:
    """Count compared and differing answers."""

    requests: int = 0
    rows: int = 0
    """Number of compared scores."""
    skipped: int = 0
    """Number of answers of other model versions."""
    differing_requests: int = 0
    differing_rows: int = 0
    largest: float = 0.0
    features: dict[str, int] = field(default_factory=dict)
    """Number of requests in which a feature differs, whether or not the scores differ."""
    differences: list[Difference] = field(default_factory=list)
    """The first differing scores."""


class EagerScorer:
    """Score requests with the trained model of a run, through the interface of a bundle."""

    def __init__(self, run: Path) -> None:
        from unimixer.training.model import load_ranker
        from unimixer.training.run import RunFolder

        folder = RunFolder(run)
        self.version, self.tasks = f"run {run}", tuple(folder.recipe.tasks)
        self.transform = folder.transform
        self.layout = request_layout(self.transform.schema)
        self._model = load_ranker(folder)

    def score(self, request: Request) -> NDArray[np.float32]:
        """Return probabilities of shape ``(N, tasks)``."""
        with torch.no_grad():
            scores: NDArray[np.float32] = torch.sigmoid(self._model(request.batch())).float().numpy()
        return scores


def replay(
    log: str | Path,
    store: FeatureStore,
    scorer: Scorer,
    *,
    version: str | None = None,
    tolerance: float = TOLERANCE,
    listed: int = 20,
) -> Parity:
    """Compute logged answers again from the current store.

    Args:
        log: folder of the prediction log, one part of it, or address of a database.
        store: the feature store.
        scorer: an open bundle, or a run (:class:`EagerScorer`).
        version: model version to compare; answers of others are skipped (default: all are compared).
        tolerance: largest difference of scores that count as equal.
        listed: largest number of listed differences.

    Raises:
        UnimixerError: the log cannot be read, or a call can no longer be encoded.
    """
    encoder = RequestEncoder(scorer.transform, scorer.layout, store)
    parity = Parity()
    with progress_bar("replaying", None, unit="requests") as advance:
        for row in read_log(log):
            advance(1)
            if version is not None and row["model_version"] != version:
                parity.skipped += 1
                continue
            encoded = encoder.encode(_call(row))
            _compare(parity, row, encoded, scorer, tolerance, listed)
    return parity


def _call(row: Mapping[str, Any]) -> RankCall:
    call = row["call"]
    return RankCall(row["user"], row["items"], call["context"], call["user_columns"], call["item_columns"], call["now"])


def _compare(
    parity: Parity, row: Mapping[str, Any], encoded: EncodedCall, scorer: Scorer, tolerance: float, listed: int
) -> None:
    now = field_hashes(encoded.request, scorer.transform)
    logged = dict(zip(row["fields"], row["hashes"], strict=True))
    features = tuple(name for name in {**logged, **now} if logged.get(name) != now.get(name))
    for name in features:
        parity.features[name] = parity.features.get(name, 0) + 1
    scores = scorer.score(encoded.request)
    tasks = [task for task in row["tasks"] if task in scorer.tasks]
    old = np.asarray([row["scores"][row["tasks"].index(task)] for task in tasks], dtype=np.float32)
    new = np.stack([scores[:, scorer.tasks.index(task)] for task in tasks])
    gap = np.abs(old - new)
    differing = ~(gap <= tolerance)
    parity.requests += 1
    parity.rows += old.size
    parity.largest = max(parity.largest, float(gap.max(initial=0.0)))
    parity.differing_rows += int(differing.sum())
    parity.differing_requests += int(differing.any())
    for task, item in np.argwhere(differing)[: listed - len(parity.differences)]:
        changed = _changed(row, encoded, int(item))
        parity.differences.append(
            Difference(
                request_id=row["request_id"],
                item=row["items"][item],
                task=tasks[task],
                logged=float(old[task, item]),
                computed=float(new[task, item]),
                changed=changed,
                features=features,
            )
        )


def _changed(row: Mapping[str, Any], encoded: EncodedCall, item: int) -> str:
    kinds = (
        ("user", row["user_revision"] != encoded.user_revision),
        ("item", row["item_revisions"][item] != int(encoded.item_revisions[item])),
    )
    return " and ".join(kind for kind, differs in kinds if differs)
