"""A score log computed again: which answers differ, and in which features."""

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
    """One candidate whose score is another one now."""

    request_id: str
    item: str | None
    task: str
    logged: float
    computed: float
    changed: str
    """What the store changed since: ``user``, ``item``, both, or nothing."""
    features: tuple[str, ...]
    """Features of the request whose encoded values differ."""


@dataclass
class Parity:
    """What a replay found."""

    requests: int = 0
    rows: int = 0
    """Scores that were compared."""
    skipped: int = 0
    """Answers of other model versions."""
    differing_requests: int = 0
    differing_rows: int = 0
    largest: float = 0.0
    features: dict[str, int] = field(default_factory=dict)
    """Number of requests in which a feature differs, score or no score."""
    differences: list[Difference] = field(default_factory=list)
    """The first of them."""


class EagerScorer:
    """The model of a run as training left it, behind the interface of a bundle."""

    def __init__(self, run: Path) -> None:
        from unimixer.training.model import load_ranker
        from unimixer.training.run import RunFolder

        folder = RunFolder(run)
        self.version, self.tasks = f"run {run}", tuple(folder.recipe.tasks)
        self.transform = folder.transform
        self.layout = request_layout(self.transform.schema)
        self._model = load_ranker(folder)

    def score(self, request: Request) -> NDArray[np.float32]:
        """Probabilities ``(N, tasks)``."""
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
    """Compute logged answers again from the store as it is now.

    Args:
        log: folder of the score log, one part, or address of the database.
        store: the feature store.
        scorer: an open bundle, or a run (:class:`EagerScorer`).
        version: answers of other versions are skipped (default: nothing is).
        tolerance: largest difference of a score that counts as equal.
        listed: differences that are kept.

    Raises:
        UnimixerError: the log cannot be read, or a call cannot be encoded any more.
    """
    encoder = RequestEncoder(scorer.transform, scorer.layout, store)
    found = Parity()
    with progress_bar("replaying", None, unit="requests") as advance:
        for row in read_log(log):
            advance(1)
            if version is not None and row["model_version"] != version:
                found.skipped += 1
                continue
            encoded = encoder.encode(_call(row))
            _compare(found, row, encoded, scorer, tolerance, listed)
    return found


def _call(row: Mapping[str, Any]) -> RankCall:
    call = row["call"]
    return RankCall(row["user"], row["items"], call["context"], call["user_columns"], call["item_columns"], call["now"])


def _compare(
    found: Parity, row: Mapping[str, Any], encoded: EncodedCall, scorer: Scorer, tolerance: float, listed: int
) -> None:
    now = field_hashes(encoded.request, scorer.transform)
    logged = dict(zip(row["fields"], row["hashes"], strict=True))
    features = tuple(name for name in {**logged, **now} if logged.get(name) != now.get(name))
    for name in features:
        found.features[name] = found.features.get(name, 0) + 1
    scores = scorer.score(encoded.request)
    tasks = [task for task in row["tasks"] if task in scorer.tasks]
    old = np.asarray([row["scores"][row["tasks"].index(task)] for task in tasks], dtype=np.float32)
    new = np.stack([scores[:, scorer.tasks.index(task)] for task in tasks])
    gap = np.abs(old - new)
    differing = ~(gap <= tolerance)
    found.requests += 1
    found.rows += old.size
    found.largest = max(found.largest, float(gap.max(initial=0.0)))
    found.differing_rows += int(differing.sum())
    found.differing_requests += int(differing.any())
    for task, item in np.argwhere(differing)[: listed - len(found.differences)]:
        changed = _changed(row, encoded, int(item))
        found.differences.append(
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
