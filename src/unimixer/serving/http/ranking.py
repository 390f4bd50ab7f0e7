"""The ranking route: a body to scores, and to the bytes and the row of the prediction log that tell them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from unimixer.abtest.records import Exposure
from unimixer.errors import UnimixerError
from unimixer.serving.arms import Choice
from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.encoding.request import RankCall
from unimixer.serving.engine import Engine, InService, Model, Ranked, Scorer
from unimixer.serving.errors import read_json
from unimixer.serving.http.common import check_key, deadline, dump, read_body, reply
from unimixer.serving.prediction_log.record import PredictionRecord, answer_time
from unimixer.serving.prediction_log.writer import PredictionLog

SHADOW_S = 30.0
"""Seconds after which a waiting call of a shadow arm is given up."""


@dataclass(frozen=True)
class Ranking:
    """What a thread of the pool makes of a body."""

    body: bytes
    timing: str
    unknown_user: bool
    unknown_items: int
    row: PredictionRecord | None
    """Of the prediction log."""
    exposure: Exposure | None
    """Of the database of events."""
    shadows: tuple[tuple[Model, Exposure], ...]
    """Models of shadow arms, and the rows that their scores complete."""


class Ranker:
    """Answers ranking requests with the model in service.

    A thread of the pool does all of a request but the network, so that a request changes threads twice and no more.

    Args:
        engine: the model in service.
        prediction_log: where answers are kept.
        exposures: where exposures of experiments are kept.
    """

    def __init__(
        self,
        engine: Engine,
        prediction_log: PredictionLog[PredictionRecord] | None,
        exposures: PredictionLog[Exposure] | None = None,
    ) -> None:
        self.engine, self.prediction_log, self.settings = engine, prediction_log, engine.settings
        self.exposures = exposures
        self._running: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request) -> Response:
        """The answer to a request; it is in the prediction log's keeping before its first byte is sent."""
        settings, engine = self.settings, self.engine
        check_key(request, settings.api_key, "API")
        service = engine.in_service
        engine.requests.check_room()
        data = await read_body(request, settings.max_body, settings.timeout)
        work = partial(self._rank, service, data, request.scope["state"])
        found = await engine.requests.run(work, deadline(request, settings.timeout))
        if found.unknown_user:
            engine.metrics.unknown_users.inc()
        engine.metrics.unknown_items.inc(found.unknown_items)
        if self.prediction_log is not None and found.row is not None:
            self.prediction_log.add(found.row)
        if self.exposures is not None and found.exposure is not None:
            self.exposures.add(found.exposure)
            for shadow, row in found.shadows:
                self._start_shadow(shadow, data, row)
        return reply(found.body, headers={"Server-Timing": found.timing})

    def _rank(self, service: InService, data: bytes, state: dict[str, Any]) -> Ranking:
        body, now = read_json(data), int(time.time() * 1000)
        choice = self._choose(service, body, now)
        model = service.model if choice is None else service.model_of(choice.bundle)
        call, task = model.reader.read(body, now=now)
        state["candidates"], state["model_version"] = len(call.items), model.bundle.version
        self.engine.metrics.candidates.observe(len(call.items))
        found = self.engine.rank(model, call)
        encoded, bundle = found.encoded, model.bundle
        unknown_user = encoded.user is not None and encoded.user_revision == 0
        ranking = np.argsort(-found.scores[:, task], kind="stable")
        answer: dict[str, Any] = {
            "request_id": state["request_id"],
            "model": {"name": self.settings.name, "version": bundle.version},
            "scores": dict(zip(bundle.tasks, np.ascontiguousarray(found.scores.T), strict=True)),
            "ranking": ranking,
            "unknown": {"user": unknown_user, "items": encoded.unknown_items},
        }
        exposure: Exposure | None = None
        shadows: tuple[tuple[Model, Exposure], ...] = ()
        if choice is not None:
            experiment = choice.experiment
            answer["experiment"] = {"name": experiment.name, "version": experiment.version, "arm": choice.arm}
            if choice.exposed:
                exposure = self._exposure(choice, found, ranking, body, state["request_id"], bundle.version)
                shadows = tuple(
                    (service.model_of(experiment.arms[arm].bundle), choice.in_shadow(exposure, arm))
                    for arm in experiment.shadows
                )
        return Ranking(
            body=dump(answer),
            timing=f"encode;dur={found.encode_s * 1e3:.3f}, score;dur={found.score_s * 1e3:.3f}",
            unknown_user=unknown_user,
            unknown_items=encoded.unknown_items,
            row=self._record(state["request_id"], call, found, bundle),
            exposure=exposure,
            shadows=shadows,
        )

    def _choose(self, service: InService, body: dict[str, Any], now: int) -> Choice | None:
        """The arm of a call by its own time; a call whose time cannot be read is refused where it is read."""
        if not service.arms.experiments:
            return None
        context, encoder = body.get("context"), service.model.encoder
        try:
            at = now
            if isinstance(context, dict) and encoder.context.time is not None:
                at = encoder.context.time_of(context, now)[1]
        except UnimixerError:
            return None
        return service.arms.choose(body, encoder.users.key, at * 1000)

    def _exposure(
        self,
        choice: Choice,
        found: Ranked,
        ranking: NDArray[np.int64],
        body: dict[str, Any],
        request_id: str,
        version: str,
    ) -> Exposure:
        items = [found.encoded.items[at] for at in ranking[: self.settings.positions]]
        return choice.exposure(request_id, version, items, body.get("context") or {})

    def _record(self, request_id: str, call: RankCall, found: Ranked, bundle: Scorer) -> PredictionRecord | None:
        """The row of the prediction log, if there is one."""
        if self.prediction_log is None:
            return None
        encoded = found.encoded
        return PredictionRecord(
            request_id=request_id,
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

    def _start_shadow(self, model: Model, data: bytes, row: Exposure) -> None:
        """Score a call for a shadow arm after its answer; where too many wait, or it fails, the loss is counted."""
        count = self.engine.metrics.shadows.labels
        if self.engine.shadow.in_flight >= self.engine.shadow.limit:
            count("dropped").inc()
            return

        async def run() -> None:
            try:
                scored, record = await self.engine.shadow.run(
                    partial(self._score_shadow, model, data, row), time.monotonic() + SHADOW_S
                )
            except UnimixerError:
                count("failed").inc()
                return
            count("scored").inc()
            if self.exposures is not None:
                self.exposures.add(scored)
            if self.prediction_log is not None and record is not None:
                self.prediction_log.add(record)

        task = asyncio.get_running_loop().create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _score_shadow(self, model: Model, data: bytes, row: Exposure) -> tuple[Exposure, PredictionRecord | None]:
        call, task = model.reader.read(read_json(data), now=row.time // 1000)
        found = self.engine.rank(model, call)
        ranking = np.argsort(-found.scores[:, task], kind="stable")
        items = [found.encoded.items[at] for at in ranking[: self.settings.positions]]
        record = self._record(row.request_id, call, found, model.bundle)
        return row._replace(bundle=model.bundle.version, positions=json.dumps(items)), record
