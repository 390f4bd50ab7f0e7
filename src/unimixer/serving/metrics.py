"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CANDIDATES = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000)


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
