"""What the sizes of a sweep cost: FLOPs, training time and latency, from its points and measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from unimixer.analysis.points import POINTS, Points
from unimixer.analysis.sizing import Costs, Curve
from unimixer.experiments.size_series import Ladder
from unimixer.experiments.sweep_config import build_ladders, is_sweep, read_sweep
from unimixer.profiling.latency import Latency, latencies

MEASURED = 4
"""Sizes of a model whose latency is measured for advice."""


def costs_of(points: Points, path: Path, *, candidates: int | None, threads: int = 1) -> dict[str, Costs]:
    """Costs of every model of a file of points.

    Args:
        points: as read.
        path: where from: the folder of a sweep, or a file.
        candidates: rows of a request, to measure latency on this machine; needs the folder of a sweep. Without it the
            column ``latency_ms`` counts, if there is one.
        threads: of a request.
    """
    measured = _measured(path, candidates, threads) if candidates is not None and is_sweep(path) else {}
    hours = _hours(path)
    found = {}
    for model in points.models:
        runs = [point for point in points.points if point.model == model]
        flops = _curve({point.params: point.flops for point in runs if point.flops is not None})
        column = _curve({point.params: point.latency_ms for point in runs if point.latency_ms is not None})
        found[model] = Costs(flops, measured.get(model, column), hours.get(model))
    return found


def _curve(values: Mapping[float, float]) -> Curve | None:
    sizes = sorted(values)
    return Curve(sizes, [values[size] for size in sizes]) if sizes else None


def _measured(folder: Path, candidates: int, threads: int) -> dict[str, Curve]:
    """Latency at a few sizes of every model; the quicker of both forms."""
    ladders, _ = build_ladders(read_sweep(folder))
    several = len({ladder.cases[0].store.hash for ladder in ladders}) > 1
    found = {}
    for ladder in ladders:
        places = sorted({round(p) for p in np.linspace(0, len(ladder.cases) - 1, min(MEASURED, len(ladder.cases)))})
        cases = [ladder.cases[place] for place in places]
        times = latencies(cases, folder, candidates=candidates, threads=threads)
        name = f"{cases[0].store.name}: {ladder.name}" if several else ladder.name
        found[name] = Curve([case.dense_params for case in cases], [one.best for one in times])
    return found


def ladder_latencies(
    ladders: list[Ladder], folder: Path, *, candidates: int, threads: int = 1
) -> dict[tuple[str, int], float]:
    """Latency of every size, by name of the model and dense parameters."""
    found = {}
    for ladder in ladders:
        times: list[Latency] = latencies(ladder.cases, folder, candidates=candidates, threads=threads)
        for case, one in zip(ladder.cases, times, strict=True):
            found[ladder.name, case.dense_params] = one.best
    return found


def _hours(path: Path) -> dict[str, Curve]:
    """Hours of a run by model, from the column ``seconds``, where there is one."""
    file = path / POINTS if path.is_dir() else path
    frame = pl.read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else pl.read_csv(file)
    if not {"seconds", "params", "model"} <= set(frame.columns):
        return {}
    frame = frame.with_columns(pl.col("seconds").cast(pl.Float64, strict=False)).drop_nulls("seconds")
    if frame.is_empty() or not frame["params"].dtype.is_numeric():
        return {}
    stores = frame["store"].n_unique() > 1 if "store" in frame.columns else False
    name = pl.format("{}: {}", "store", "model") if stores else pl.col("model")
    means = frame.group_by(name.alias("model"), "params").agg(pl.col("seconds").mean() / 3600)
    return {
        model: Curve(part["params"].to_list(), part["seconds"].to_list())
        for (model,), part in means.sort("params").group_by("model", maintain_order=True)
    }
