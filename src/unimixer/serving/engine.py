"""The model in service: opened, warmed up, swapped while requests run; and the bounded crowds before it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from unimixer.data.coverage import Coverage
from unimixer.data.encoding.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.features.request import Request, RequestLayout
from unimixer.serving.arms import Arms, Experiments
from unimixer.serving.arms_fit import Opened, check_fit
from unimixer.serving.encoding.parse_request import CallReader
from unimixer.serving.encoding.request import EncodedCall, RankCall, RequestEncoder
from unimixer.serving.errors import HTTPError
from unimixer.serving.metrics import Metrics
from unimixer.serving.settings import ServeSettings
from unimixer.serving.stores.base import FeatureStore
from unimixer.serving.thread_pool import BoundedThreadPool
from unimixer.workers.helper_threads import HelperThreads

WARM_UP = (1, 2, 100, 500)
"""Candidates of the requests that are scored before a bundle is in service."""
LEAST_PART = 100
"""Fewest candidates of a part: a call of the graph has a cost of its own, whatever its size."""
MOST_TEXT = 300
"""Characters of what a library says about a bundle."""


class Scorer(Protocol):
    """What a bundle does."""

    version: str
    tasks: tuple[str, ...]
    transform: Transform
    layout: RequestLayout

    def score(self, request: Request) -> NDArray[np.float32]:
        """Probabilities ``(N, tasks)``."""


Open = Callable[..., Any]
"""``open_bundle``: a folder and a number of threads to a :class:`Scorer`."""


@dataclass(frozen=True)
class Ranked:
    """Scores of a call, and what they came from."""

    scores: NDArray[np.float32]
    encoded: EncodedCall
    encode_s: float
    score_s: float


class Model:
    """One bundle in service.

    Args:
        bundle: an open bundle.
        store: raw rows.
        settings: of the server.
        coverage: counts of the values of its features.
    """

    def __init__(self, bundle: Scorer, store: FeatureStore, settings: ServeSettings, coverage: Coverage) -> None:
        self.bundle = bundle
        longest = sum(history.max_length for history in bundle.transform.schema.histories)
        cached = max(settings.cached, settings.max_candidates + longest)  # what one request needs, fits
        self.encoder = RequestEncoder(bundle.transform, bundle.layout, store, cached=cached)
        self.coverage = coverage
        self.reader = CallReader(self.encoder, bundle.tasks, max_candidates=settings.max_candidates)

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Score requests of several sizes.

        Raises:
            UnimixerError: if a score is no probability.
        """
        for size in sizes:
            call = RankCall(
                None, [None] * size, dict.fromkeys(self.encoder.context.columns), now=int(time.time() * 1e3)
            )
            scores = self.bundle.score(self.encoder.encode(call).request)
            if scores.shape != (size, len(self.bundle.tasks)) or not np.isfinite(scores).all():
                raise UnimixerError(f"bundle {self.bundle.version}: the scores of the warm-up are not finite")


def _opened(folder: Path, model: Model) -> Opened:
    bundle = model.bundle
    return Opened(folder, bundle.transform.schema, bundle.tasks, model.reader)


@dataclass(frozen=True)
class InService:
    """What one load put in service.

    Attributes:
        model: of every request that takes part in no experiment.
        models: of the arms that have a bundle of their own, by its place.
        arms: of the experiments.
    """

    model: Model
    models: Mapping[str, Model]
    arms: Arms

    @property
    def all_models(self) -> list[Model]:
        """The models, every one once."""
        return list(dict.fromkeys((self.model, *self.models.values())))

    def model_of(self, bundle: str | None) -> Model:
        """Return the model of an arm."""
        return self.model if bundle is None else self.models[bundle]


class Engine:
    """Scores calls with the model in service, some at once, some waiting, no more.

    Args:
        settings: of the server.
        store: raw rows.
        open_bundle: opens the folder of a bundle.
        metrics: counters.
        experiments: whose arms are served.
    """

    def __init__(
        self,
        settings: ServeSettings,
        store: FeatureStore,
        open_bundle: Open,
        metrics: Metrics,
        experiments: Experiments | None = None,
    ) -> None:
        self.settings, self.store, self.metrics = settings, store, metrics
        self.experiments = experiments or Experiments()
        self._open, self._swap = open_bundle, threading.Lock()
        queue, timeout = settings.queue, settings.timeout
        self.requests = BoundedThreadPool(
            "requests", metrics, threads=settings.concurrency, queue=queue, timeout=timeout
        )
        self._helpers = HelperThreads(settings.concurrency, "helpers")
        self.updates = BoundedThreadPool("updates", metrics, threads=1, queue=queue, timeout=timeout)
        metrics.watch("in_flight", "Requests that are scored or wait", lambda: self.requests.in_flight)
        metrics.watch("updates_in_flight", "Changes that are written or wait", lambda: self.updates.in_flight)
        self._encoding, self._scoring = (metrics.stage.labels(stage) for stage in ("encode", "score"))
        self._in_service: InService | None = None
        self._look: asyncio.Task[None] | None = None
        self._decisions: dict[tuple[str, str, str], Counter] = {}
        self.outcomes = BoundedThreadPool("outcomes", metrics, threads=1, queue=queue, timeout=timeout)
        self.shadow = BoundedThreadPool("shadow requests", metrics, threads=1, queue=queue, timeout=timeout)

    @property
    def in_service(self) -> InService:
        """The models in service, and the arms that they belong to.

        Raises:
            HTTPError: before the warm-up has ended.
        """
        if self._in_service is None:
            raise HTTPError(503, "the server is not ready: its bundle is being opened", retry_after=1)
        return self._in_service

    @property
    def model(self) -> Model:
        """The model in service for requests that take part in no experiment."""
        return self.in_service.model

    @property
    def ready(self) -> bool:
        """Whether a warmed-up bundle is in service."""
        return self._in_service is not None

    def load(self) -> str:
        """Open the bundles that the settings and the arms name now, warm them up, put them in service.

        Requests that run keep the model that they began with. Where anything fails, everything old stays.

        Returns:
            The version of the server's bundle.

        Raises:
            HTTPError: another swap is running.
            UnimixerError: a bundle is damaged or does not fit the store, or a specification is refused.
        """
        if not self._swap.acquire(blocking=False):
            raise HTTPError(409, "another bundle is being opened; try again when it is in service", retry_after=1)
        try:
            folder = Path(self.settings.bundle).resolve()  # a link is read once: all files are of one bundle
            experiments = self.experiments.read()
            arms = Arms(experiments, self.experiments.stopped, self._count)
            opened = {folder: self._warm(folder)}
            at = {bundle: Path(bundle).resolve() for bundle in arms.bundles}
            for place in at.values():
                if place not in opened:
                    opened[place] = self._warm(place)
            models = {bundle: opened[place] for bundle, place in at.items()}
            found = InService(opened[folder], models, arms)
            check_fit(
                _opened(folder, found.model), {place: _opened(at[place], models[place]) for place in models}, arms
            )
            self.experiments.register(experiments)  # last: what is registered cannot be taken back
        except Exception as error:
            self.metrics.swaps.labels("refused").inc()
            if isinstance(error, UnimixerError):
                raise
            # files that are damaged where no checksum looks fail anywhere, as anything
            text = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_TEXT].rstrip(" .:")
            raise UnimixerError(f"{folder}: the bundle cannot be put in service ({text}); export it again") from error
        finally:
            self._swap.release()
        self._in_service = found
        self.metrics.model.clear()
        for model in found.all_models:
            self.metrics.model.labels(model.bundle.version).set(1)
        self.metrics.swaps.labels("in service").inc()
        gc.unfreeze()
        gc.collect()  # the old bundle holds large arrays; do not wait for a full collection
        gc.freeze()  # what is in service stays: collections need not look at it again and again
        return found.model.bundle.version

    def _count(self, experiment: str, arm: str, reason: str) -> None:
        labels = (experiment, arm, reason)
        if labels not in self._decisions:  # to look it up in the metrics takes longer than the assignment
            self._decisions[labels] = self.metrics.decisions.labels(*labels)
        self._decisions[labels].inc()

    def _warm(self, folder: Path) -> Model:
        bundle = self._open(folder, threads=self.settings.threads)
        model = Model(bundle, self.store, self.settings, self.metrics.values.of(bundle.transform.spec))
        sizes = [n for n in WARM_UP if n < self.settings.max_candidates]
        model.warm_up((*sizes, self.settings.max_candidates))
        return model

    def rank(self, model: Model, call: RankCall) -> Ranked:
        """Encode and score; runs in a thread of the pool.

        Raises:
            StoreUnavailableError: the store cannot be read, or holds no data.
        """
        started = time.perf_counter()
        encoded = model.encoder.encode(call)
        model.encoder.check_data()
        self.metrics.values.add(model.coverage, encoded.request)
        middle = time.perf_counter()
        scores = self._score(model.bundle, encoded.request)
        ended = time.perf_counter()
        self._encoding.observe(middle - started)
        self._scoring.observe(ended - middle)
        return Ranked(scores, encoded, middle - started, ended - middle)

    def _score(self, bundle: Scorer, request: Request) -> NDArray[np.float32]:
        """Score the candidates of a request; threads that have no request of their own take equal parts of them."""
        parts = min(1 + self.requests.idle, len(request) // LEAST_PART)
        if parts < 2:
            return bundle.score(request)
        ends = [len(request) * number // parts for number in range(parts + 1)]
        split = [request.part(start, stop) for start, stop in pairwise(ends)]
        return np.concatenate(self._helpers.map(bundle.score, split))

    async def check_ready(self) -> None:
        """Look whether requests can be answered now; who asks meanwhile gets the same answer.

        Raises:
            HTTPError: no bundle is in service, or the store does not answer in time.
            StoreUnavailableError: the store cannot be read, or holds no data.
        """
        models = self.in_service.all_models

        def look() -> None:
            for model in models:
                model.encoder.check_data(look=True)

        if self._look is None or self._look.done():
            self._look = asyncio.create_task(asyncio.to_thread(look))
            self._look.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has seen it
        try:
            async with asyncio.timeout(self.settings.timeout):
                await asyncio.shield(self._look)
        except TimeoutError:
            limit = self.settings.timeout
            raise HTTPError(503, f"the feature store did not answer within {limit:g} s", retry_after=1) from None

    def close(self) -> None:
        """Wait for what runs."""
        self.requests.close()
        self.shadow.close()
        self.outcomes.close()
        self._helpers.close()
        self.updates.close()
