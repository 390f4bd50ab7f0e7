"""What the server counts, for Prometheus."""

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
TOGETHER = 32, 3_000
"""Requests, and candidates, whose values are counted together at most."""
CANDIDATES = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000)


class Values(Collector):
    """Values of every id feature and sequence that were encoded, and those that no vocabulary knew.

    Requests wait to be counted, some at once: a request has values of all features, and to count each request by itself
    would cost nearly as much as to encode it.
    """

    def __init__(self) -> None:
        self._counting, self._coverages = threading.Lock(), list[Coverage]()
        self._waiting: list[tuple[Coverage, Request]] = []
        self._rows = 0

    def of(self, spec: FeatureSpec) -> Coverage:
        """Counts for the features of a bundle; they go on where the one before had the same."""
        new = Coverage(spec)
        found = next((known for known in self._coverages if known.names == new.names), None)
        if found is None:
            self._coverages = [*self._coverages, new]
        return found or new

    def add(self, coverage: Coverage, request: Request) -> None:
        """Count a request, now or with some that follow."""
        with self._counting:
            self._waiting.append((coverage, request))
            self._rows += len(request)
            if len(self._waiting) >= TOGETHER[0] or self._rows >= TOGETHER[1]:
                self._count()

    def _count(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        for coverage in {id(one): one for one, _ in waiting}.values():
            requests = [request for one, request in waiting if one is coverage]
            user, candidates = (_joined(p) for p in zip(*((r.user, r.candidates) for r in requests), strict=True))
            coverage.add(user, candidates, missing=False)

    def collect(self) -> Iterator[Metric]:
        """Both families, as Prometheus asks for them."""
        with self._counting:
            self._count()
        totals: dict[str, list[int]] = {}
        for coverage in self._coverages:
            numbers = {field.name for field in coverage.spec.dense}
            for name, values, unknown in zip(coverage.names, coverage.values, coverage.unknown, strict=True):
                if name not in numbers:
                    total = totals.setdefault(name, [0, 0])
                    total[0], total[1] = total[0] + int(values), total[1] + int(unknown)
        texts = {"feature_values": "Values that were encoded", "unknown_values": "Values that no vocabulary knew"}
        for at, (name, text) in enumerate(texts.items()):
            family = CounterMetricFamily(f"unimixer_{name}", text, labels=["feature"])
            for feature, total in totals.items():
                family.add_metric([feature], total[at])
            yield family


def _joined(parts: Sequence[Batch]) -> Batch:
    """Rows of several batches, and events of their sequences, as far as they are counted."""
    values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
    return Batch(torch.cat([part.ids for part in parts]), torch.cat([part.dense for part in parts]), values)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nothing reads
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("unimixer_requests", "Answered requests", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "unimixer_request_seconds",
            "From the head of a request to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage = Histogram(
            "unimixer_stage_seconds", "Parts of a ranking request", ["stage"], buckets=SECONDS, registry=registry
        )
        self.candidates = Histogram("unimixer_candidates", "Items of a request", buckets=CANDIDATES, registry=registry)
        self.refused = Counter("unimixer_refused", "Requests without scores", ["reason"], registry=registry)
        self.unknown_users = Counter("unimixer_unknown_users", "Requests whose user the store lacks", registry=registry)
        self.unknown_items = Counter("unimixer_unknown_items", "Candidates that the store lacks", registry=registry)
        self.values = Values()
        registry.register(self.values)
        self.swaps = Counter(
            "unimixer_swaps", "Bundles that were put in service or refused", ["result"], registry=registry
        )
        self.model = Gauge("unimixer_model", "1 for the bundle in service", ["version"], registry=registry)
        self.log_rows = Counter("unimixer_score_log_rows", "Answers written to the score log", registry=registry)
        self.log_dropped = Counter(
            "unimixer_score_log_dropped",
            "Answers that the score log lost: it was full, or away at the end",
            registry=registry,
        )
        self.log_errors = Counter(
            "unimixer_score_log_errors", "Writes of the score log that failed and are tried again", registry=registry
        )
        self.log_rejected = Counter(
            "unimixer_score_log_rejected", "Answers that the score log cannot hold", registry=registry
        )
        self.log_lines_lost = Counter(
            "unimixer_log_lines_lost",
            "Lines of the log that standard error did not take",
            registry=registry,
        )
        self.connections_refused = Counter(
            "unimixer_connections_refused",
            "Connections that were ended for what is no request",
            ["reason"],
            registry=registry,
        )

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"unimixer_{name}", text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)
