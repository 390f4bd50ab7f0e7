"""The ranking route: a body to scores, and to the bytes and the row of the prediction log that tell them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request, Response

from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.engine import Engine, Model
from unimixer.serving.errors import read_json
from unimixer.serving.http.common import check_key, deadline, dump, read_body, reply
from unimixer.serving.prediction_log.record import PredictionRecord, answer_time
from unimixer.serving.prediction_log.writer import PredictionLog


@dataclass(frozen=True)
class Ranking:
    """What a thread of the pool makes of a body."""

    body: bytes
    timing: str
    unknown_user: bool
    unknown_items: int
    row: PredictionRecord | None
    """Of the prediction log."""


class Ranker:
    """Answers ranking requests with the model in service.

    A thread of the pool does all of a request but the network, so that a request changes threads twice and no more.

    Args:
        engine: the model in service.
        prediction_log: where answers are kept.
    """

    def __init__(self, engine: Engine, prediction_log: PredictionLog | None) -> None:
        self.engine, self.prediction_log, self.settings = engine, prediction_log, engine.settings

    async def answer(self, request: Request) -> Response:
        """The answer to a request; it is in the prediction log's keeping before its first byte is sent."""
        settings, engine = self.settings, self.engine
        check_key(request, settings.api_key, "API")
        model = engine.model
        engine.requests.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)
        work = partial(self._rank, model, data, request.scope["state"])
        found = await engine.requests.run(work, deadline(request, settings.timeout))
        if found.unknown_user:
            engine.metrics.unknown_users.inc()
        engine.metrics.unknown_items.inc(found.unknown_items)
        if self.prediction_log is not None and found.row is not None:
            self.prediction_log.add(found.row)
        return reply(found.body, headers={"Server-Timing": found.timing})

    def _rank(self, model: Model, data: bytes, state: dict[str, Any]) -> Ranking:
        call, task = model.reader.read(read_json(data), now=int(time.time() * 1000))
        state["candidates"], state["model_version"] = len(call.items), model.bundle.version
        self.engine.metrics.candidates.observe(len(call.items))
        found = self.engine.rank(model, call)
        encoded, bundle = found.encoded, model.bundle
        unknown_user = encoded.user is not None and encoded.user_revision == 0
        unknown_items = encoded.unknown_items
        body = dump(
            {
                "request_id": state["request_id"],
                "model": {"name": self.settings.name, "version": bundle.version},
                "scores": dict(zip(bundle.tasks, np.ascontiguousarray(found.scores.T), strict=True)),
                "ranking": np.argsort(-found.scores[:, task], kind="stable"),
                "unknown": {"user": unknown_user, "items": unknown_items},
            }
        )
        timing = f"encode;dur={found.encode_s * 1e3:.3f}, score;dur={found.score_s * 1e3:.3f}"
        row = None
        if self.prediction_log is not None:
            row = PredictionRecord(
                request_id=state["request_id"],
                answered_ms=answer_time(),
                time_ms=encoded.time,
                model_version=bundle.version,
                user=encoded.user,
                user_revision=encoded.user_revision,
                call=call,
                items=encoded.items,
                item_revisions=encoded.item_revisions,
                tasks=bundle.tasks,
                scores=found.scores,
                hashes=field_hashes(encoded.request, bundle.transform),
            )
        return Ranking(body, timing, unknown_user, unknown_items, row)
