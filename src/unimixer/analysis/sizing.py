"""Choose the size of a model: the best predicted AUC within a budget for serving or training, and its returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.analysis.curve_fit import Array
from unimixer.analysis.points import Points
from unimixer.analysis.power_law import GAIN, Law
from unimixer.errors import UnimixerError, check_positive
from unimixer.experiments.results import POINTS

UTILISATION = 0.7
"""Share of the cores' time that requests may take; beyond it they queue."""
BEYOND = 4.0
"""Multiple of the largest trained size up to which sizes are considered."""
STEPS = 3000
"""Number of sizes that are considered between the smallest and the largest."""


@dataclass(frozen=True)
class Curve:
    """A cost as a function of the number of parameters, interpolated linearly in logarithms.

    Beyond the measured sizes the line of the last two continues; from one size alone the cost is proportional.

    Example:
        >>> curve = Curve((1e6, 4e6), (2.0, 4.0))
        >>> [round(float(value), 3) for value in curve.at([1e6, 2e6, 16e6])]
        [2.0, 2.828, 8.0]
    """

    params: Sequence[float]
    values: Sequence[float]

    def at(self, params: Sequence[float] | Array) -> Array:
        """Compute the cost at sizes."""
        log_params = np.log(np.asarray(params, dtype=np.float64))
        order = np.argsort(self.params)
        x, y = np.log(np.asarray(self.params))[order], np.log(np.asarray(self.values))[order]
        if len(x) == 1:
            return np.asarray(np.exp(y[0] + log_params - x[0]))
        segment = np.clip(np.searchsorted(x, log_params) - 1, 0, len(x) - 2)
        slope = (y[segment + 1] - y[segment]) / (x[segment + 1] - x[segment])
        return np.asarray(np.exp(y[segment] + slope * (log_params - x[segment])))


@dataclass(frozen=True)
class Budget:
    """The budget of a model; a limit that is None does not bind.

    Args:
        latency_ms: of a request.
        qps: requests a second.
        cores: that serve them.
        threads: that a request takes.
        utilisation: share of the cores' time that requests may take.
        training_hours: of a run.
        params: dense parameters.
    """

    latency_ms: float | None = None
    qps: float | None = None
    cores: int = 1
    threads: int = 1
    utilisation: float = UTILISATION
    training_hours: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        """Check that the limits are positive, and that there is one."""
        limits = {name: value for name, value in vars(self).items() if value is not None}
        check_positive(**limits)
        if self.utilisation > 1:
            raise UnimixerError(
                f"utilisation={self.utilisation:g} must be at most 1: cores have no more time than that"
            )
        if all(value is None for value in (self.latency_ms, self.qps, self.training_hours, self.params)):
            raise UnimixerError("advice needs a budget: --latency-ms, --qps, --train-hours or --max-params")

    def cores_for(self, latency_ms: Array) -> Array:
        """Compute the number of cores that the requests keep busy."""
        assert self.qps is not None
        return np.asarray(self.qps * latency_ms / 1e3 * self.threads / self.utilisation)


@dataclass(frozen=True)
class Costs:
    """The costs of the sizes of one model; a curve that is None was not measured."""

    flops: Curve | None = None
    latency_ms: Curve | None = None
    training_hours: Curve | None = None


def costs_of(points: Points, path: Path, latency: Mapping[tuple[str, str, int], float]) -> dict[str, Costs]:
    """Read the costs of every model from a file of points.

    Args:
        points: the runs of the file.
        path: the file, or the folder of a sweep.
        latency: measured milliseconds of a request by name of the dataset, model and dense parameters; models without
            any have those of the column ``latency_ms``, if there is one.
    """
    several = len({dataset for dataset, _, _ in latency}) > 1
    measured: dict[str, dict[float, float]] = {}
    for (dataset, model, params), milliseconds in latency.items():
        measured.setdefault(f"{dataset}: {model}" if several else model, {})[params] = milliseconds
    hours, costs = _hours(path), {}
    for model in points.models:
        runs = [point for point in points.points if point.model == model]
        flops = _curve({point.params: point.flops for point in runs if point.flops is not None})
        column = {point.params: point.latency_ms for point in runs if point.latency_ms is not None}
        costs[model] = Costs(flops, _curve(measured.get(model, column)), hours.get(model))
    return costs


def _curve(values: Mapping[float, float]) -> Curve | None:
    sizes = sorted(values)
    return Curve(sizes, [values[size] for size in sizes]) if sizes else None


def _hours(path: Path) -> dict[str, Curve]:
    """Read the hours of a run by model from the column ``seconds``, if there is one."""
    file = path / POINTS if path.is_dir() else path
    frame = pl.read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else pl.read_csv(file)
    if not {"seconds", "params", "model"} <= set(frame.columns):
        return {}
    frame = frame.with_columns(pl.col("seconds").cast(pl.Float64, strict=False)).drop_nulls("seconds")
    if frame.is_empty() or not frame["params"].dtype.is_numeric():
        return {}
    datasets = frame["dataset"].n_unique() > 1 if "dataset" in frame.columns else False
    name = pl.format("{}: {}", "dataset", "model") if datasets else pl.col("model")
    means = frame.group_by(name.alias("model"), "params").agg(pl.col("seconds").mean() / 3600)
    return {
        model: Curve(part["params"].to_list(), part["seconds"].to_list())
        for (model,), part in means.sort("params").group_by("model", maintain_order=True)
    }


@dataclass(frozen=True)
class Advice:
    """The advice for one model: the best size that its budget allows.

    Args:
        model: its name.
        params: dense parameters; None if even the smallest trained size is too expensive.
        limit: the limit that keeps it from being larger.
        auc: predicted; of a gain, the gain.
        interval: of the prediction, 95%.
        beyond: the size over the largest trained one; above 1 the prediction extrapolates.
        costs: ``flops``, ``latency_ms``, ``cores``, ``training_hours`` as far as known.
        returns: what a doubling of ``params``, ``flops``, ``latency_ms`` adds to the AUC, and at the margin a million
            parameters, a MFLOP and a millisecond (names with ``per``).
    """

    model: str
    params: float | None
    limit: str
    auc: float | None = None
    interval: tuple[float, float] | None = None
    beyond: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict)
    returns: Mapping[str, float] = field(default_factory=dict)


def advise(
    laws: Mapping[str, Law],
    costs: Mapping[str, Costs],
    budget: Budget,
    *,
    base_auc: float = 0.0,
    beyond: float = BEYOND,
) -> list[Advice]:
    r"""Find the best size of every model within a budget, the best model first.

    .. math:: N^* = \arg\max_N \{ \widehat{\mathrm{AUC}}(N) : t(N) \le t_{\max},\;
              q\, t(N)\, k / u \le \text{cores} \}

    with t the latency of a request, q requests a second, k threads, u the utilisation. Returns are derivatives of the
    law at :math:`N^*`: of a doubling, :math:`A(2N) - A(N)`; at the margin, :math:`dA/dN`; over FLOPs and milliseconds
    by the slope of their curves.

    Args:
        laws: fitted over parameters, of the AUC's error or of a gain.
        costs: by model.
        budget: what a model may cost.
        base_auc: AUC that a gain counts from; 0 predicts the gain itself.
        beyond: sizes up to so many times the largest trained one.
    """
    check_positive(beyond=beyond)
    advice = [_advice(model, law, costs.get(model, Costs()), budget, base_auc, beyond) for model, law in laws.items()]
    return sorted(advice, key=lambda one: -np.inf if one.auc is None else one.auc, reverse=True)


def _advice(model: str, law: Law, costs: Costs, budget: Budget, base: float, beyond: float) -> Advice:
    sizes = np.geomspace(law.x.min(), law.x.max() * beyond, STEPS)
    allowed = np.ones(STEPS, dtype=bool)
    limits = _limits(model, sizes, costs, budget)
    for fits in limits.values():
        allowed &= fits
    if not allowed.any():
        tight = next(name for name, fits in limits.items() if not fits[0])
        return Advice(model, None, tight)
    quality = _auc(law, sizes, base)
    best = int(np.where(allowed, quality, -np.inf).argmax())
    last = best == STEPS - 1
    binding = [name for name, fits in limits.items() if not last and not fits[best + 1]]
    limit = ", ".join(binding) or (f"{beyond:g} times the largest size trained" if last else "larger is worse")
    size = float(sizes[best])
    return Advice(
        model,
        size,
        limit,
        float(quality[best]),
        _interval(law, size, base),
        size / float(law.x.max()),
        _costs_at(size, costs, budget),
        _returns(law, size, costs, base),
    )


def _limits(model: str, sizes: Array, costs: Costs, budget: Budget) -> dict[str, NDArray[np.bool_]]:
    limits: dict[str, NDArray[np.bool_]] = {}
    if budget.latency_ms is not None or budget.qps is not None:
        latency = _known(costs.latency_ms, model, "latency", "points of a sweep's folder, or a column latency_ms").at(
            sizes
        )
        if budget.latency_ms is not None:
            limits["latency"] = latency <= budget.latency_ms
        if budget.qps is not None:
            limits["requests a second"] = budget.cores_for(latency) <= budget.cores
    if budget.training_hours is not None:
        known = _known(costs.training_hours, model, "training time", "points of a sweep's folder, or a column seconds")
        limits["training time"] = known.at(sizes) <= budget.training_hours
    if budget.params is not None:
        limits["parameters"] = sizes <= budget.params
    return limits


def _known(curve: Curve | None, model: str, name: str, way: str) -> Curve:
    if curve is None:
        raise UnimixerError(f"{model}: its {name} is not known; give {way}")
    return curve


def _auc(law: Law, sizes: Sequence[float] | Array, base: float) -> Array:
    """Convert the law to an AUC: one minus the error, or the base plus the gain."""
    return base + law.at(sizes) if law.form == GAIN else 1 - law.at(sizes)


def _interval(law: Law, size: float, base: float) -> tuple[float, float] | None:
    band = law.band([size])
    if band is None:
        return None
    low, high = float(band[0][0]), float(band[1][0])
    return (base + low, base + high) if law.form == GAIN else (1 - high, 1 - low)


def _costs_at(size: float, costs: Costs, budget: Budget) -> dict[str, float]:
    curves = {"flops": costs.flops, "latency_ms": costs.latency_ms, "training_hours": costs.training_hours}
    values = {name: float(curve.at([size])[0]) for name, curve in curves.items() if curve is not None}
    if budget.qps is not None and "latency_ms" in values:
        values["cores"] = float(budget.cores_for(np.array([values["latency_ms"]]))[0])
    return values


def _returns(law: Law, size: float, costs: Costs, base: float) -> dict[str, float]:
    near = _auc(law, [size * 0.999, size * 1.001, size, 2 * size], base)
    slope = float((near[1] - near[0]) / np.log(1.001 / 0.999))  # dA / dlog N
    returns = {"doubling params": float(near[3] - near[2]), "per million params": slope / size * 1e6}
    for name, curve, unit, words in (
        ("flops", costs.flops, 1e6, "MFLOP"),
        ("latency_ms", costs.latency_ms, 1.0, "ms"),
    ):
        if curve is None:
            continue
        before, after, here, double = (float(v) for v in curve.at([size * 0.999, size * 1.001, size, 2 * size]))
        steep = float(np.log(after / before) / np.log(1.001 / 0.999))  # dlog cost / dlog N
        if steep <= 0:
            continue
        returns[f"per {words}"] = slope / steep / here * unit
        if double > here:
            times = 2 ** (1 / (np.log(double / here) / np.log(2)))  # of the size, for twice the cost
            returns[f"doubling {name}"] = float((_auc(law, [times * size], base) - near[2])[0])
    return returns
