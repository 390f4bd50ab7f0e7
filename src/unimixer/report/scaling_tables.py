"""How numbers of a scaling law are written: the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

from unimixer.analysis.bootstrap import LEVEL
from unimixer.analysis.formatting import MINUS, NONE, compact, p_value
from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.power_law import GAIN
from unimixer.analysis.scaling_laws import Analysis, Pair, Predicted
from unimixer.analysis.series import NAMES, REPORTED_IN

INTERVAL = f"{LEVEL:.0%} interval"
LAW_COLUMNS = ("model", "exponent b", INTERVAL, "a", "c", "R²", "sizes", "runs", "from", "to")
PAIR_COLUMNS = ("models", "difference of b", INTERVAL, "p", "p, Holm", "conclusion")
JOINT_COLUMNS = ("model", "b, parameters", INTERVAL, "e, rows", f"{INTERVAL} of e", "c", "R²")
PLAIN = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency"}
SHORT = {"params": "N", "flops": "FLOPs", "latency_ms": "ms"}


def plain(value: float, digits: int = 4) -> str:
    """A number to so many significant digits, with a minus sign.

    Example:
        >>> plain(0.123456), plain(-0.5), plain(1234567.0)
        ('0.1235', '\N{MINUS SIGN}0.5', '1.235e+06')
    """
    return f"{value:.{digits}g}".replace("-", MINUS, 1) if value < 0 else f"{value:.{digits}g}"


def exponent(value: float) -> str:
    """Three decimals.

    Example:
        >>> exponent(0.11604), exponent(-0.02)
        ('0.116', '\N{MINUS SIGN}0.020')
    """
    return f"{value:.3f}".replace("-", MINUS)


def between(ends: tuple[float, float] | None, *, digits: int = 3) -> str:
    """An interval of exponents."""
    if ends is None:
        return NONE
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}".replace("-", MINUS)


def size(value: float, x: str) -> str:
    """A size as people write it.

    Example:
        >>> size(135_500_000, "params"), size(8.25, "latency_ms")
        ('136M', '8.25 ms')
    """
    if x == "latency_ms":
        return f"{value:.3g} ms"
    return f"{value / 1e12:#.3g}T".replace(".T", "T") if value >= 1e12 and x == "flops" else compact(value)


def unit_of(x: str) -> float:
    """In what the coefficient ``a`` counts sizes."""
    return REPORTED_IN[x]


def equation(found: Analysis) -> str:
    """The law in words."""
    unit = f"{SHORT[found.x]}/1M" if unit_of(found.x) != 1 else SHORT[found.x]
    if found.form == GAIN:
        return f"{found.words} = a ({unit})^b"
    return f"{found.words} = c + a ({unit})^{MINUS}b"


def law_cells(found: Analysis, model: str) -> list[str]:
    """A model's law, one text for each of :data:`LAW_COLUMNS`."""
    law, series = found.laws[model], found.series[model]
    floor = NONE if found.form == GAIN else plain(law.c)
    if law.irreducible_error.fitted:
        ends = law.c_interval
        floor += " fitted" + ("" if ends is None else f" ({plain(ends[0], 3)} to {plain(ends[1], 3)})")
    return [
        model,
        exponent(law.b),
        between(law.b_interval),
        plain(law.a(unit_of(found.x))),
        floor,
        NONE if law.r2 is None else f"{law.r2:.3f}",
        f"{series.sizes}",
        f"{len(series.x)}",
        size(float(law.x.min()), found.x),
        size(float(law.x.max()), found.x),
    ]


def pair_cells(pair: Pair) -> list[str]:
    """A pair of models, one text for each of :data:`PAIR_COLUMNS`."""
    ends = None if pair.low is None or pair.high is None else (pair.low, pair.high)
    sign = "+" if pair.difference > 0 else ""
    return [
        f"{pair.model} {MINUS} {pair.other}",
        f"{sign}{exponent(pair.difference)}",
        between(ends),
        p_value(pair.p),
        p_value(pair.holm),
        pair.conclusion if pair.p is not None else "no interval",
    ]


def prediction_columns(found: Analysis) -> tuple[str, ...]:
    """Names of the cells of a prediction."""
    return ("model", NAMES[found.x], "times the largest", found.words, f"{INTERVAL} of the law", "of one run")


def predicted_cells(one: Predicted, found: Analysis) -> list[str]:
    """A model at a size, one text for each of :func:`prediction_columns`."""
    return [
        one.model,
        size(one.size, found.x),
        f"{one.times:.3g}" + (" (far)" if one.far else ""),
        plain(one.value),
        _values(one.band),
        _values(one.run),
    ]


def joint_cells(model: str, law: JointLaw) -> list[str]:
    """A joint law, one text for each of :data:`JOINT_COLUMNS`."""
    ends = law.intervals
    return [
        model,
        exponent(law.b),
        between(None if ends is None else ends["b"]),
        exponent(law.e),
        between(None if ends is None else ends["e"]),
        plain(law.c) + (" fitted" if law.irreducible_error.fitted else ""),
        NONE if law.r2 is None else f"{law.r2:.3f}",
    ]


def conclusions(found: Analysis) -> list[str]:
    """What the exponents say, one sentence a model and one for all pairs."""
    lines = []
    for model, law in found.laws.items():
        ends = f", {INTERVAL} {between(law.b_interval)}" if law.b_interval else ", no interval"
        lines.append(
            f"{model}: b = {exponent(law.b)}{ends}; at {law.span:.3g} times the {PLAIN[found.x]}, "
            + (
                f"{law.span**law.b:.3g} times the gain"
                if found.form == GAIN
                else f"{law.span**-law.b:.0%} of the error above the floor is left"
            )
        )
    told = [pair for pair in found.pairs if pair.conclusion in ("steeper", "flatter")]
    for pair in told:
        lines.append(f"{pair.model} is {pair.conclusion} than {pair.other} (p {p_value(pair.holm)} after Holm)")
    if found.pairs and len(told) < len(found.pairs):
        rest = len(found.pairs) - len(told)
        lines.append(
            f"{rest} of {len(found.pairs)} pair{'s' if len(found.pairs) > 1 else ''} of exponents are inconclusive"
        )
    return lines


def _values(ends: tuple[float, float] | None) -> str:
    return NONE if ends is None else f"{plain(ends[0])} to {plain(ends[1])}"
