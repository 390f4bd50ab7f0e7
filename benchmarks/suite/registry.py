"""Find benchmarks by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from importlib import import_module

from benchmarks.suite.base import Benchmark
from unimixer.errors import unknown

_BACKBONES = (
    "rankmixer-swiglu",
    "unimixer",
    "unimixer-lite",
    "unimixer-lite-heads",
    "transformer",
    "hetero-attention",
    "tokenmixer-large",
)
_HOME = {
    "mixing": "mixing",
    "sinkhorn": "sinkhorn",
    "sinkhorn-cached": "sinkhorn",
    "per-token-ffn": "per_token",
    **{f"backbone-{name}": "backbones" for name in _BACKBONES},
    "embedding-update": "embedding",
    "history-mean": "embedding",
    "loader": "loader",
    "metrics": "metrics",
    "training-step": "training",
    "training-parts": "training",
    "prediction": "prediction",
    "startup": "startup",
}
"""Module of every benchmark. It is loaded when it is used, so that a module that cannot be loaded stops no other."""

NAMES = tuple(_HOME)


def benchmark(name: str) -> Benchmark:
    """Load the benchmark of a name.

    Raises:
        UnimixerError: with the nearest name.
    """
    if name not in _HOME:
        raise unknown("benchmark", name, NAMES)
    entries: dict[str, Benchmark] = {
        entry.name: entry for entry in import_module(f"benchmarks.suite.entries.{_HOME[name]}").BENCHMARKS
    }
    return entries[name]


def select(names: Sequence[str]) -> list[Benchmark]:
    """Load benchmarks by names, by patterns such as ``backbone-*``, or all of them by ``all``."""
    selected: dict[str, Benchmark] = {}
    for name in names:
        matching = list(NAMES) if name == "all" else fnmatch.filter(NAMES, name) or [name]
        selected |= {entry: benchmark(entry) for entry in matching}
    return list(selected.values())


def is_benchmark(name: str) -> bool:
    """Return whether a word names a benchmark or several."""
    return name == "all" or bool(fnmatch.filter(NAMES, name))
