"""Turn points into the series that laws are fitted to: sizes and gains or errors, one series per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.curve_fit import Array
from unimixer.analysis.formatting import compact
from unimixer.analysis.points import SAME_ROWS, SIZES, Point, Points
from unimixer.analysis.power_law import FORMS, IrreducibleError
from unimixer.analysis.units import AUC, ERROR, EXCESS, GAIN
from unimixer.errors import UnimixerError, check_choice

NAMES = {
    "params": "dense parameters",
    "flops": "FLOPs a sample",
    "latency_ms": "latency, ms",
    "rows": "training rows",
}
REPORTED_IN = {"params": 1e6, "flops": 1e6, "latency_ms": 1.0, "rows": 1e6}
"""Unit in which the coefficient ``a`` counts sizes."""


@dataclass(frozen=True)
class Series:
    """The runs of one model, ready to be fitted.

    Args:
        model: label of the model.
        x: sizes ``(n,)``.
        y: gains or errors ``(n,)``, above 0.
        size: number of its size for each run, from 0, smallest first ``(n,)``.
        points: the runs ``(n,)``.
        irreducible_error: bounds of c in the error form.
        notes: runs that were left out, and steps at which the metric gets worse.
    """

    model: str
    x: Array
    y: Array
    size: NDArray[np.int64]
    points: tuple[Point, ...]
    irreducible_error: IrreducibleError
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> int:
        """Number of different sizes."""
        return int(self.size.max()) + 1


@dataclass(frozen=True)
class Reading:
    """How the metric of a file becomes the fitted quantity.

    Args:
        form: ``gain`` or ``error`` (default: an error for a file of AUCs or errors, a gain for one of gains).
        best_auc: the best reachable AUC, which gives the floor of :math:`1 - AUC`; replaces the file's column.
        irreducible_error: the two bounds of the floor, equal if it is known.
        base_auc: what a gain counts from, for a file of AUCs.
    """

    form: str | None = None
    best_auc: float | None = None
    irreducible_error: tuple[float, float] | None = None
    base_auc: float | None = None

    def form_of(self, points: Points) -> str:
        """Return the form that is fitted, or raise if the file does not allow it."""
        form = self.form or (GAIN if points.metric == GAIN else ERROR)
        check_choice("form", form, FORMS)
        if form == ERROR and points.metric == GAIN:
            raise UnimixerError(
                f"{points.source} holds gains, and the error form needs errors or AUCs; fit --form gain, "
                "or say what the metric is: --metric-is auc (or error)"
            )
        if form == GAIN and points.metric in (ERROR, EXCESS):
            raise UnimixerError(f"{points.source} holds errors: fit --form error")
        if form == GAIN and points.metric == AUC and self.base_auc is None:
            raise UnimixerError(
                f"{points.source} holds AUCs; a gain counts from a base: give --base-auc, or fit --form error"
            )
        if self.best_auc is not None and not 0 < self.best_auc <= 1:
            raise UnimixerError(f"best_auc={self.best_auc:g} is no AUC, which lies between 0 and 1")
        if self.irreducible_error is not None and not 0 <= self.irreducible_error[0] <= self.irreducible_error[1]:
            low, high = self.irreducible_error
            raise UnimixerError(f"floor={low:g},{high:g}: expected 0 <= LOW <= HIGH")
        return form

    def value(self, point: Point, form: str, metric: str) -> float:
        """Return the fitted quantity of a run."""
        if metric != AUC:
            return point.metric
        if form == ERROR:
            return 1.0 - point.metric
        assert self.base_auc is not None
        gain = point.metric - self.base_auc
        if gain <= 0:
            raise UnimixerError(
                f"{point.where}: AUC {point.metric:g} is not above the base {self.base_auc:g}, and the fit takes the "
                "logarithm of the difference; lower --base-auc, or remove the row"
            )
        return gain

    def irreducible_error_of(self, points: Sequence[Point], form: str, metric: str) -> IrreducibleError:
        """Return the bounds of one model's irreducible error; the truth itself has no excess log loss."""
        if form == GAIN:
            return IrreducibleError.known(0.0)
        if self.irreducible_error is not None:
            return IrreducibleError(*self.irreducible_error)
        if metric == EXCESS:
            return IrreducibleError.known(0.0)
        values = {point.best_auc for point in points if point.best_auc is not None}
        best = self.best_auc
        if best is None and len(values) > 1:
            raise UnimixerError(
                f"{points[0].model}: best_auc is {min(values):g} in some rows and {max(values):g} in others; one data "
                "set has one, so give the files a column dataset, or --best-auc"
            )
        best = best if best is not None else next(iter(values), None)
        return IrreducibleError() if best is None else IrreducibleError.known(1.0 - best)


def words_of(form: str, metric: str) -> str:
    """Return the name of the fitted quantity."""
    if form == GAIN:
        return "dAUC"
    return {AUC: "1 \N{MINUS SIGN} AUC", EXCESS: "excess log loss"}.get(metric, "error")


def build_series(points: Points, x: str, reading: Reading) -> list[Series]:
    """Build one series per model.

    Raises:
        UnimixerError: if a run has no such size, or if every model gets worse with it.
    """
    check_choice("x", x, SIZES)
    form = reading.form_of(points)
    for point in points.points:
        if point.size(x) is None:
            ways = ", ".join(points.sizes)
            raise UnimixerError(f"{point.where}: no {x}; fill the column, or fit over another: {ways}")
    series = [_series(points, model, x, form, reading) for model in points.models]
    steps = [_change(one) * (1 if form == GAIN else -1) for one in series if one.sizes > 1]
    if steps and all(step < 0 for step in steps):
        first = next(one for one in series if one.sizes > 1).points[0]
        noun, goes, kind = ("gain", "falls", "error") if form == GAIN else ("error", "rises", "auc")
        raise UnimixerError(
            f"{points.source}: in every model the {noun} {goes} from the smallest to the "
            f"largest {x} (first: {first.where}); where the column holds {'errors' if form == GAIN else 'AUCs'}, say "
            f"--metric-is {kind}; else larger models are worse here, and there is no law to fit"
        )
    return series


def _series(points: Points, model: str, x: str, form: str, reading: Reading) -> Series:
    runs = [point for point in points.points if point.model == model]
    notes = []
    held = "params" if x == "rows" else "rows"  # a law over one of the two holds the other
    values = [value for point in runs if (value := point.size(held)) is not None]
    if values and max(values) > SAME_ROWS * min(values):
        most = max(values)
        largest = [point for point in runs if (point.size(held) or most) * SAME_ROWS >= most]
        notes.append(f"{len(largest)} of {len(runs)} runs, those of {most:,.0f} {NAMES[held]}; the joint fit takes all")
        runs = largest
    configs = list(dict.fromkeys(point.config for point in runs))
    means = {c: _mean([_size(p, x) for p in runs if p.config == c]) for c in configs}
    configs.sort(key=means.__getitem__)
    runs.sort(key=lambda point: configs.index(point.config))
    y = np.array([reading.value(point, form, points.metric) for point in runs])
    series = Series(
        model=model,
        x=np.array([means[point.config] for point in runs]),
        y=y,
        size=np.array([configs.index(point.config) for point in runs]),
        points=tuple(runs),
        irreducible_error=reading.irreducible_error_of(runs, form, points.metric),
    )
    back = _goes_back(series, x, form)
    return Series(**{**vars(series), "notes": (*notes, *back)})


def _goes_back(series: Series, x: str, form: str) -> list[str]:
    """Describe the largest step at which a larger model is worse than the next smaller one."""
    means = _means(series)
    worse = -np.diff(means) if form == GAIN else np.diff(means)
    if not len(worse) or worse.max() <= 0:
        return []
    at, noun = int(worse.argmax()), "gain" if form == GAIN else "error"
    small, large = (next(p for p, s in zip(series.points, series.size, strict=True) if s == n) for n in (at, at + 1))
    count = int((worse > 0).sum())
    return [
        f"not monotone in {count} of {len(worse)} steps: the {noun} goes from {np.exp(means[at]):.4g} at "
        f"{x}={compact(_size(small, x))} to {np.exp(means[at + 1]):.4g} at {compact(_size(large, x))} ({large.where}); "
        "check the runs, add seeds, or compare like with like (one depth, one learning-rate rule)"
    ]


def _change(series: Series) -> float:
    means = _means(series)
    return float(means[-1] - means[0])


def _means(series: Series) -> Array:
    return np.bincount(series.size, np.log(series.y)) / np.bincount(series.size)


def _size(point: Point, x: str) -> float:
    size = point.size(x)
    assert size is not None
    return size


def _mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if len(set(values)) > 1 else float(values[0])
