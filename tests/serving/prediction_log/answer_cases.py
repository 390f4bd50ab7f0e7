"""Answers as a server logs them, without a server."""

from __future__ import annotations

from typing import Any

import numpy as np

from unimixer.serving.encoding.request import RankCall
from unimixer.serving.prediction_log.record import PredictionRecord


def answer(number: int = 0, **changes: Any) -> PredictionRecord:
    """An answer of two tasks and three items."""
    items: list[str | None] = ["i1", None, 'i"3\\, {é}']
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "answered_ms": 1_700_000_000_123 + number,
        "time_ms": 1_699_999_999_999,
        "model_version": "v1",
        "user": "u3",
        "user_revision": 7,
        "call": RankCall("u3", items, {"tab": "home", "position": 3.0}, {"age": 3}, None, now=5),
        "items": items,
        "item_revisions": np.asarray([4, 0, 2**62], dtype=np.int64),
        "tasks": ("click", "like"),
        "scores": np.asarray([[0.1, 0.2], [0.3, 1e-30], [1.0, 0.0]], dtype=np.float32),
        "hashes": {"item_id": 2**64 - 1, "tab": 0, "price": 2**63, "age": 12345},
    }
    return PredictionRecord(**{**values, **changes})
