"""Write scaling laws as one page that works without network: curves, tables, warnings, method and the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.scaling_laws import Analysis
from unimixer.analysis.series import NAMES
from unimixer.report.html import render
from unimixer.report.methods import scaling_method
from unimixer.report.scaling_figures import analysis_colors, curve
from unimixer.report.scaling_tables import (
    LAW_COLUMNS,
    conclusions,
    equation,
    joint_table,
    joint_warnings,
    law_cells,
    law_table,
    pair_table,
    prediction_table,
    ratio_table,
    rows_table,
    size,
    slope_table,
)

BEYOND = 8.0
"""The page continues curves to this multiple of the largest size."""


def page(analyses: Sequence[Analysis], joint: Mapping[str, JointLaw], *, title: str, csv: str) -> str:
    """Render the page.

    Args:
        analyses: one for each kind of size.
        joint: laws over parameters and rows, by model.
        title: heading of the page.
        csv: the points, as the file that the page offers for download.
    """
    colors = analysis_colors(analyses)
    return render(
        "scaling.html.j2",
        title=title,
        facts=_facts(analyses[0]),
        analyses=[_tables(analysis) for analysis in analyses],
        joint=joint_table(joint),
        by_rows=rows_table(joint),
        joint_warnings=joint_warnings(joint),
        method=scaling_method(analyses[0], joint=bool(joint)),
        csv=csv,
        csv_name="points.csv",
        script="scaling.js",
        values={
            "columns": list(LAW_COLUMNS),
            "analyses": [_plot_values(analysis, colors) for analysis in analyses],
        },
    )


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the counts at the top of the page."""
    models = len(analysis.laws)
    return [
        (f"{models}", "models" if models > 1 else "model"),
        (f"{sum(len(series.x) for series in analysis.series.values())}", "runs"),
        (f"{max(series.sizes for series in analysis.series.values())}", "sizes"),
        (f"{max(law.span for law in analysis.laws.values()):.3g}", "times from smallest to largest"),
    ]


def _tables(analysis: Analysis) -> dict[str, Any]:
    """Return everything over one kind of size, readable without scripts."""
    return {
        "name": NAMES[analysis.x],
        "conclusions": conclusions(analysis),
        "warnings": analysis.warnings,
        "equation": equation(analysis),
        "laws": law_table(analysis),
        "pairs": pair_table(analysis),
        "ratios": ratio_table(analysis),
        "slopes": slope_table(analysis),
        "predicted": prediction_table(analysis),
    }


def _plot_values(analysis: Analysis, colors: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that the script of the page plots over one kind of size."""
    return {
        "x": analysis.x,
        "name": NAMES[analysis.x],
        "form": analysis.form,
        "words": analysis.words,
        "equation": equation(analysis),
        "models": [_model_values(analysis, model, colors[model]) for model in analysis.laws],
    }


def _model_values(analysis: Analysis, model: str, color: str) -> dict[str, Any]:
    law, series = analysis.laws[model], analysis.series[model]
    runs = zip(series.x.tolist(), series.y.tolist(), series.points, law.residuals.tolist(), strict=True)
    return {
        "model": model,
        "color": color,
        "floor": law.c,
        "b": law.b,
        "b_interval": law.b_interval,
        "cells": law_cells(analysis, model),
        "curve": curve(law, beyond=BEYOND),
        "runs": [
            {
                "size": x,
                "size_words": size(x, analysis.x),
                "value": y,
                "seed": point.seed,
                "residual": residual,
            }
            for x, y, point, residual in runs
        ],
    }
