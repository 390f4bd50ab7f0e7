"""Count requests, values and refusals for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from unimixer.data.coverage import Coverage
from unimixer.features.batch import Batch
from unimixer.features.request import Request
from unimixer.features.spec import FeatureSpec

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
MAX_WAITING = 32, 3_000
"""Numbers of requests and of candidates at which the waiting requests are counted."""
CANDIDATES = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000)


class Values(Collector):
    """Count the encoded and the out-of-vocabulary values of every id feature and sequence.

    Requests are counted in groups: a request has values of all features, and counting each request separately would
    cost nearly as much as encoding it.
    """

    def __init__(self) -> None:
        self._lock, self._coverages = threading.Lock(), list[Coverage]()
        self._waiting: list[tuple[Coverage, Request]] = []
        self._rows = 0

    def of(self, spec: FeatureSpec) -> Coverage:
        """Return the counts of a bundle's features; they continue if an earlier bundle had the same features."""
        new = Coverage(spec)
        same = next((known for known in self._coverages if known.names == new.names), None)
        if same is None:
            self._coverages = [*self._coverages, new]
        return same or new

    def add(self, coverage: Coverage, request: Request) -> None:
        """Count a request, now or together with later ones."""
        with self._lock:
            self._waiting.append((coverage, request))
            self._rows += len(request)
            if len(self._waiting) >= MAX_WAITING[0] or self._rows >= MAX_WAITING[1]:
                self._count()

    def _count(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        for coverage in {id(one): one for one, _ in waiting}.values():
            requests = [request for one, request in waiting if one is coverage]
            user, candidates = (_joined(p) for p in zip(*((r.user, r.candidates) for r in requests), strict=True))
            coverage.add(user, candidates, missing=False)

    def collect(self) -> Iterator[Metric]:
        """Yield both metric families on a scrape."""
        with self._lock:
            self._count()
        totals: dict[str, list[int]] = {}
        for coverage in self._coverages:
            numbers = {field.name for field in coverage.spec.dense}
            for name, values, unknown in zip(coverage.names, coverage.values, coverage.unknown, strict=True):
                if name not in numbers:
                    total = totals.setdefault(name, [0, 0])
                    total[0], total[1] = total[0] + int(values), total[1] + int(unknown)
        texts = {"feature_values": "Encoded values", "unknown_values": "Values that the vocabularies lack"}
        for at, (name, text) in enumerate(texts.items()):
            family = CounterMetricFamily(f"unimixer_{name}", text, labels=["feature"])
            for feature, total in totals.items():
                family.add_metric([feature], total[at])
            yield family


def _joined(parts: Sequence[Batch]) -> Batch:
    """Concatenate the counted parts of several batches."""
    values = {name: torch.cat([part.sequence_values[name] for part in parts]) for name in parts[0].sequence_values}
    return Batch(
        torch.cat([part.sparse_ids for part in parts]), torch.cat([part.dense_features for part in parts]), values
    )


class LogMetrics:
    """Count what happens to the rows of a log.

    Args:
        name: of the log in the names of its metrics.
        rows: plural noun for the rows.
        place: of the rows, in words.
        registry: of the metrics.
    """

    def __init__(self, name: str, rows: str, place: str, registry: CollectorRegistry) -> None:
        texts = {
            "rows": f"{rows} written to the {place}",
            "dropped": f"{rows} that the {place} lost because it was full, or unavailable at the end",
            "errors": f"Failed writes of the {place}, which are retried",
            "rejected": f"{rows} that the {place} cannot hold",
        }
        self.rows, self.dropped, self.errors, self.rejected = (
            Counter(f"unimixer_{name}_{kind}", text, registry=registry) for kind, text in texts.items()
        )


class Metrics:
    """Hold the metrics of one server in a separate registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # an unused second series per counter
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("unimixer_requests", "Answered requests", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "unimixer_request_seconds",
            "Seconds from the head of a request to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage = Histogram(
            "unimixer_stage_seconds",
            "Seconds per stage of a ranking request",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.candidates = Histogram("unimixer_candidates", "Items per request", buckets=CANDIDATES, registry=registry)
        self.refused = Counter("unimixer_refused", "Requests without scores", ["reason"], registry=registry)
        self.unknown_users = Counter("unimixer_unknown_users", "Requests whose user the store lacks", registry=registry)
        self.unknown_items = Counter("unimixer_unknown_items", "Candidates that the store lacks", registry=registry)
        self.values = Values()
        registry.register(self.values)
        self.swaps = Counter("unimixer_swaps", "Bundles that were loaded or refused", ["result"], registry=registry)
        self.model = Gauge("unimixer_model", "1 for the served bundle", ["version"], registry=registry)
        self.prediction_log = LogMetrics("prediction_log", "Answers", "prediction log", registry)
        self.exposures = LogMetrics("exposures", "Exposures", "database of events", registry)
        self.exposures_repeated = Counter(
            "unimixer_exposures_repeated", "Exposures whose request id was known", registry=registry
        )
        self.decisions = Counter(
            "unimixer_experiment_requests",
            "Requests by arm of an experiment, and by the reason of it",
            ["experiment", "arm", "reason"],
            registry=registry,
        )
        self.shadows = Counter(
            "unimixer_shadow_requests", "Requests of shadow arms by their result", ["result"], registry=registry
        )
        self.outcomes = Counter(
            "unimixer_outcomes", "Received outcomes, new or repeated", ["result"], registry=registry
        )
        self.log_lines_lost = Counter(
            "unimixer_log_lines_lost",
            "Log lines that could not be written to standard error",
            registry=registry,
        )
        self.connections_refused = Counter(
            "unimixer_connections_refused",
            "Connections that were closed because they violated HTTP or a limit",
            ["reason"],
            registry=registry,
        )

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read on every scrape."""
        Gauge(f"unimixer_{name}", text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
