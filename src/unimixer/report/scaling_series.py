"""Laws as plain values: for ``--json`` and for the page's script."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.power_law import Law
from unimixer.analysis.scaling_laws import Analysis
from unimixer.analysis.series import NAMES, Series
from unimixer.report.scaling_tables import equation, law_cells, size, unit_of

STEPS = 60
"""Points of a drawn curve."""
BEYOND = 8.0
"""Curves go on to so many times the largest size, dotted."""


def analysis_values(found: Analysis) -> dict[str, Any]:
    """Everything of an analysis but the curves, for ``--json``."""
    return {
        "x": found.x,
        "form": found.form,
        "equation": equation(found),
        "unit": unit_of(found.x),
        "laws": {model: law_values(law, unit_of(found.x)) for model, law in found.laws.items()},
        "left_out": found.left_out,
        "pairs": [{**asdict(pair), "verdict": pair.conclusion} for pair in found.pairs],
        "predicted": [{**asdict(one), "far": one.far} for one in found.predicted],
        "warnings": found.warnings,
    }


def law_values(law: Law, unit: float) -> dict[str, Any]:
    """One law."""
    return {
        "a": law.a(unit),
        "a_interval": law.a_interval(unit),
        "b": law.b,
        "b_interval": law.b_interval,
        "c": law.c,
        "c_fitted": law.irreducible_error.fitted,
        "c_interval": law.c_interval,
        "r2": law.r2,
        "runs": len(law.x),
        "sizes": len(np.unique(law.x)),
        "span": law.span,
    }


def joint_values(laws: dict[str, JointLaw]) -> dict[str, Any]:
    """Joint laws by model; coefficients count parameters and rows in millions."""
    return {
        model: {
            "a": law.a(1e6),
            "b": law.b,
            "d": law.d(1e6),
            "e": law.e,
            "c": law.c,
            "intervals": law.intervals,
            "r2": law.r2,
            "warnings": list(law.warnings),
        }
        for model, law in laws.items()
    }


def drawn(found: Analysis, colours: dict[str, str]) -> dict[str, Any]:
    """What the script draws over one kind of size."""
    return {
        "x": found.x,
        "name": NAMES[found.x],
        "form": found.form,
        "words": found.words,
        "equation": equation(found),
        "models": [_model(found, model, colours[model]) for model in found.laws],
        "predicted": [{**asdict(one), "size_words": size(one.size, found.x)} for one in found.predicted],
    }


def curve(law: Law, *, beyond: float = BEYOND) -> dict[str, Any]:
    """The law on a grid of sizes, its band, the interval of one run; ``inside`` counts the steps within the runs."""
    low, high = float(law.x.min()), float(law.x.max())
    inside = np.geomspace(low, high, STEPS)
    after = np.geomspace(high, high * beyond, STEPS // 2) if beyond > 1 else inside[-1:]
    grid = np.concatenate([inside, after[1:]])
    values: dict[str, Any] = {"size": grid.tolist(), "value": law.at(grid).tolist(), "inside": len(inside)}
    for name, ends in (("band", law.band(grid)), ("run", law.prediction(grid))):
        values[name] = None if ends is None else [_bounded(end) for end in ends]
    return values


def _model(found: Analysis, model: str, colour: str) -> dict[str, Any]:
    law, series = found.laws[model], found.series[model]
    return {
        "model": model,
        "colour": colour,
        "floor": law.c,
        "b": law.b,
        "b_interval": law.b_interval,
        "cells": law_cells(found, model),
        "curve": curve(law),
        "runs": [_run(series, place, float(law.residuals[place]), found.x) for place in range(len(series.x))],
    }


def _run(series: Series, place: int, residual: float, x: str) -> dict[str, Any]:
    point = series.points[place]
    return {
        "size": float(series.x[place]),
        "size_words": size(float(series.x[place]), x),
        "value": float(series.y[place]),
        "seed": point.seed,
        "metric": point.metric,
        "residual": residual,
    }


def _bounded(values: Any) -> list[float]:
    """For JSON and for axes: an interval from one degree of freedom can be astronomical."""
    return [float(value) for value in np.clip(values, 1e-12, 1e12)]
