"""Write scaling laws as cells, sentences and plain values, the same for Markdown, the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from unimixer.analysis.bootstrap import LEVEL
from unimixer.analysis.equal_size import AHEAD, BEHIND, SizeRatio
from unimixer.analysis.formatting import MINUS, NONE, compact, p_value
from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.power_law import GAIN, Law
from unimixer.analysis.scaling_laws import FLATTER, STEEPER, Analysis, Pair
from unimixer.analysis.series import NAMES, REPORTED_IN
from unimixer.report.tables import Badge, TextTable

INTERVAL = f"{LEVEL:.0%} interval"
LAW_COLUMNS = ("model", "exponent b", INTERVAL, "a", "c", "R²", "sizes", "runs", "from", "to")
PLAIN = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency", "rows": "training rows"}
_OUTCOMES = {STEEPER: "better", FLATTER: "worse", AHEAD: "better", BEHIND: "worse"}
SHORT = {"params": "N", "flops": "FLOPs", "latency_ms": "ms", "rows": "D"}


def plain(value: float, digits: int = 4) -> str:
    """Write a number to some significant digits.

    Example:
        >>> plain(0.123456), plain(-0.5), plain(1234567.0)
        ('0.1235', '\N{MINUS SIGN}0.5', '1.235e+06')
    """
    return f"{value:.{digits}g}".replace("-", MINUS, 1) if value < 0 else f"{value:.{digits}g}"


def exponent(value: float) -> str:
    """Write an exponent to three decimals.

    Example:
        >>> exponent(0.11604), exponent(-0.02)
        ('0.116', '\N{MINUS SIGN}0.020')
    """
    return f"{value:.3f}".replace("-", MINUS)


def between(ends: tuple[float, float] | None, *, digits: int = 3) -> str:
    """Write an interval of exponents."""
    if ends is None:
        return NONE
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}".replace("-", MINUS)


def size(value: float, x: str) -> str:
    """Write a size with its unit.

    Example:
        >>> size(135_500_000, "params"), size(8.25, "latency_ms")
        ('136M', '8.25 ms')
    """
    if x == "latency_ms":
        return f"{value:.3g} ms"
    return f"{value / 1e12:#.3g}T".replace(".T", "T") if value >= 1e12 and x == "flops" else compact(value)


def equation(analysis: Analysis) -> str:
    """Write the form of the law as an equation."""
    unit = f"{SHORT[analysis.x]}/1M" if REPORTED_IN[analysis.x] != 1 else SHORT[analysis.x]
    if analysis.form == GAIN:
        return f"{analysis.words} = a ({unit})^b"
    return f"{analysis.words} = c + a ({unit})^{MINUS}b"


def law_cells(analysis: Analysis, model: str) -> list[str]:
    """Write the law of a model, a text for each of :data:`LAW_COLUMNS`."""
    law, series = analysis.laws[model], analysis.series[model]
    floor = NONE if analysis.form == GAIN else plain(law.c)
    if law.irreducible_error.fitted:
        ends = law.c_interval
        floor += " fitted" + ("" if ends is None else f" ({plain(ends[0], 3)} to {plain(ends[1], 3)})")
    return [
        model,
        exponent(law.b),
        between(law.b_interval),
        plain(law.a(REPORTED_IN[analysis.x])),
        floor,
        NONE if law.r2 is None else f"{law.r2:.3f}",
        f"{series.sizes}",
        f"{len(series.x)}",
        size(float(law.x.min()), analysis.x),
        size(float(law.x.max()), analysis.x),
    ]


def law_table(analysis: Analysis) -> TextTable:
    """Write the laws of all models."""
    return TextTable(LAW_COLUMNS, [law_cells(analysis, model) for model in analysis.laws])


def pair_table(analysis: Analysis) -> TextTable:
    """Write the exponents of every two models compared."""
    columns = ("models", "difference of b", INTERVAL, "p", "p, Holm", "conclusion")
    return TextTable(columns, [_pair_cells(pair) for pair in analysis.pairs], text=(0, 5))


def ratio_table(analysis: Analysis) -> TextTable:
    """Write every two models compared at equal size: the error or gain of the first over that of the second."""
    columns = ("models", f"equal {PLAIN[analysis.x]}", "ratio", INTERVAL, "p", "p, Holm", "seeds", "conclusion")
    rows = [_ratio_cells(ratio, analysis.x) for ratio in analysis.ratios]
    return TextTable(columns, rows, text=(0, 1, 7))


def slope_table(analysis: Analysis) -> TextTable:
    """Write how the ratio of every two models changes with the size: its ends, and its exponent."""
    columns = ("models", "ratio at smallest", "at largest", "exponent of the ratio", INTERVAL, "p", "p, Holm", "seeds")
    return TextTable(columns, [_slope_cells(ratio) for ratio in analysis.ratios], text=(0,))


def prediction_table(analysis: Analysis) -> TextTable:
    """Write the predictions at other sizes."""
    columns = ("model", NAMES[analysis.x], "times the largest", analysis.words, f"{INTERVAL} of the law", "of one run")
    rows = [
        [
            prediction.model,
            size(prediction.size, analysis.x),
            f"{prediction.times:.3g}" + (" (far)" if prediction.far else ""),
            plain(prediction.value),
            _values(prediction.band),
            _values(prediction.run),
        ]
        for prediction in analysis.predicted
    ]
    return TextTable(columns, rows)


def joint_table(laws: Mapping[str, JointLaw]) -> TextTable:
    """Write the laws over parameters and rows."""
    columns = ("model", "b, parameters", INTERVAL, "e, rows", f"{INTERVAL} of e", "c", "R²")
    rows = [
        [
            model,
            exponent(law.b),
            between(None if law.intervals is None else law.intervals["b"]),
            exponent(law.e),
            between(None if law.intervals is None else law.intervals["e"]),
            plain(law.c) + (" fitted" if law.irreducible_error.fitted else ""),
            NONE if law.r2 is None else f"{law.r2:.3f}",
        ]
        for model, law in laws.items()
    ]
    return TextTable(columns, rows)


def rows_table(laws: Mapping[str, JointLaw]) -> TextTable:
    """Write the exponents of the parameters at each number of rows."""
    columns = ("model", "training rows", "b, parameters", INTERVAL, "sizes", "runs")
    rows = [
        [model, f"{count:,.0f}", exponent(law.b), between(law.b_interval), str(len(np.unique(law.x))), str(len(law.x))]
        for model, joint in laws.items()
        for count, law in joint.by_rows.items()
    ]
    return TextTable(columns, rows)


def joint_warnings(laws: Mapping[str, JointLaw]) -> list[str]:
    """Return the warnings of the laws over parameters and rows, each with its model."""
    return [f"{model}: {text}" for model, law in laws.items() for text in law.warnings]


def conclusions(analysis: Analysis) -> list[str]:
    """Write one sentence for each exponent and one for each pair that differs."""
    lines = []
    for model, law in analysis.laws.items():
        ends = f", {INTERVAL} {between(law.b_interval)}" if law.b_interval else ", no interval"
        lines.append(
            f"{model}: b = {exponent(law.b)}{ends}; at {law.span:.3g} times the {PLAIN[analysis.x]}, "
            + (
                f"{law.span**law.b:.3g} times the gain"
                if analysis.form == GAIN
                else f"{law.span**-law.b:.0%} of the error above the floor is left"
            )
        )
    noun = "gain" if analysis.form == GAIN else "error"
    decided = [pair for pair in analysis.pairs if pair.conclusion in (STEEPER, FLATTER)]
    for pair in decided:
        lines.append(f"{pair.model} is {pair.conclusion} than {pair.other} (p {p_value(pair.holm)} after Holm)")
    for ratio in analysis.ratios:
        if ratio.conclusion in (AHEAD, BEHIND):
            words = f"{ratio.conclusion} of" if ratio.conclusion == AHEAD else ratio.conclusion
            factor = f"{ratio.ratio:.3f} times its {noun} (p {p_value(ratio.holm)} after Holm)"
            lines.append(f"{ratio.model} is {words} {ratio.other} at equal {PLAIN[analysis.x]}: {factor}")
    if analysis.pairs and len(decided) < len(analysis.pairs):
        rest = len(analysis.pairs) - len(decided)
        pairs = f"pair{'s' if len(analysis.pairs) > 1 else ''}"
        lines.append(f"{rest} of {len(analysis.pairs)} {pairs} of exponents cannot be told apart")
    return lines


def analysis_values(analysis: Analysis) -> dict[str, Any]:
    """Return everything of an analysis but its curves, for ``--json``."""
    return {
        "x": analysis.x,
        "form": analysis.form,
        "equation": equation(analysis),
        "unit": REPORTED_IN[analysis.x],
        "laws": {model: _law_values(law, REPORTED_IN[analysis.x]) for model, law in analysis.laws.items()},
        "left_out": analysis.left_out,
        "pairs": [{**asdict(pair), "verdict": pair.conclusion} for pair in analysis.pairs],
        "ratios": [{**asdict(ratio), "verdict": ratio.conclusion} for ratio in analysis.ratios],
        "predicted": [{**asdict(one), "far": one.far} for one in analysis.predicted],
        "warnings": analysis.warnings,
    }


def joint_values(laws: dict[str, JointLaw]) -> dict[str, Any]:
    """Return joint laws by model; their coefficients count parameters and rows in millions."""
    return {
        model: {
            "a": law.a(1e6),
            "b": law.b,
            "d": law.d(1e6),
            "e": law.e,
            "c": law.c,
            "intervals": law.intervals,
            "r2": law.r2,
            "by_rows": {
                f"{count:.0f}": {"b": one.b, "b_interval": one.b_interval, "runs": len(one.x)}
                for count, one in law.by_rows.items()
            },
            "warnings": list(law.warnings),
        }
        for model, law in laws.items()
    }


def _law_values(law: Law, unit: float) -> dict[str, Any]:
    """Return the numbers of one law."""
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


def _pair_cells(pair: Pair) -> list[str]:
    ends = None if pair.low is None or pair.high is None else (pair.low, pair.high)
    sign = "+" if pair.difference > 0 else ""
    return [
        f"{pair.model} {MINUS} {pair.other}",
        f"{sign}{exponent(pair.difference)}",
        between(ends),
        p_value(pair.p),
        p_value(pair.holm),
        Badge(pair.conclusion if pair.p is not None else "no interval", _OUTCOMES.get(pair.conclusion, "")),
    ]


def _ratio_cells(ratio: SizeRatio, x: str) -> list[str]:
    ends = None if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
    return [
        f"{ratio.model} / {ratio.other}",
        f"{size(ratio.smallest, x)} to {size(ratio.largest, x)}",
        f"{ratio.ratio:.3f}",
        between(ends),
        p_value(ratio.p),
        p_value(ratio.holm),
        f"{ratio.seeds or NONE}",
        Badge(ratio.conclusion if ratio.p is not None else "no interval", _OUTCOMES.get(ratio.conclusion, "")),
    ]


def _values(ends: tuple[float, float] | None) -> str:
    return NONE if ends is None else f"{plain(ends[0])} to {plain(ends[1])}"


def _slope_cells(ratio: SizeRatio) -> list[str]:
    ends = None if ratio.slope_low is None or ratio.slope_high is None else (ratio.slope_low, ratio.slope_high)
    return [
        f"{ratio.model} / {ratio.other}",
        f"{ratio.at_smallest:.3f}",
        f"{ratio.at_largest:.3f}",
        exponent(ratio.slope),
        between(ends),
        p_value(ratio.slope_p),
        p_value(ratio.slope_holm),
        f"{ratio.seeds or NONE}",
    ]
