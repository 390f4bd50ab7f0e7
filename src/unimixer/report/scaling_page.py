"""Scaling laws as one page that needs no network: curves with intervals, tables, warnings, method, points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.scaling_laws import INCONCLUSIVE, STEEPER, Analysis, Pair
from unimixer.analysis.series import NAMES
from unimixer.report.scaling_figures import colours
from unimixer.report.scaling_method import method
from unimixer.report.scaling_script import SCRIPT
from unimixer.report.scaling_series import drawn
from unimixer.report.scaling_tables import (
    JOINT_COLUMNS,
    LAW_COLUMNS,
    PAIR_COLUMNS,
    conclusions,
    equation,
    joint_cells,
    law_cells,
    pair_cells,
    predicted_cells,
    prediction_columns,
)
from unimixer.report.study_page import Markup, document, download, html_table, json_script, plotly

PLOTS = (
    (
        *("curves", "wide-plot", "Quality against size"),
        "A dot a run, the law and its interval; dotted beyond the runs, with the interval of one new run.",
    ),
    ("exponents", "", "Exponents", "With their intervals: the further right, the more a larger model gives."),
    ("residuals", "", "What the law leaves over", "A bend here means that the law is not of this form."),
)
"""Of each plot its id, class, title and what it shows."""


def page(found: Sequence[Analysis], joint: Mapping[str, JointLaw], *, title: str, csv: str) -> str:
    """The page.

    Args:
        found: one analysis a kind of size.
        joint: laws over parameters and rows.
        title: above it.
        csv: the points, to be downloaded from it.
    """
    return document(title, "\n".join(_parts(found, joint, title, csv)), scripts=[plotly(), SCRIPT])


def _parts(found: Sequence[Analysis], joint: Mapping[str, JointLaw], title: str, csv: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield _facts(found)
    yield _glance(found)
    yield '<h2>Look closer</h2>\n<noscript><p class="card">The plots need scripts; all tables are below.</p></noscript>'
    yield '<section><div id="controls" class="controls card"></div>'
    yield f'<div class="plots">{"".join(_figure(*plot) for plot in PLOTS)}</div>'
    yield '<h2>Laws</h2><div class="card"><p class="soft"><span class="law"></span>. <span class="where"></span></p>'
    yield '<div id="table" class="scroll"></div></div></section>'
    yield "<h2>All tables</h2>"
    for one in found:
        yield _tables(one, shown=one is found[0])
    if joint:
        yield "<h2>Over parameters and data</h2>"
        rows = [joint_cells(model, law) for model, law in joint.items()]
        told = "".join(f"<li>{escape(f'{m}: {t}')}</li>" for m, law in joint.items() for t in law.warnings)
        yield (
            '<div class="card" id="joint"><p class="soft">error = c + a N^-b + d D^-e over parameters N and training '
            f"rows D</p>{html_table(JOINT_COLUMNS, rows, text=(0,))}{f'<ul>{told}</ul>' if told else ''}</div>"
        )
    yield "<h2>How it was done, and how to read it</h2>"
    words = method(found[0], joint=bool(joint))
    yield f'<div class="card"><dl>{"".join(f"<dt>{escape(s)}</dt><dd>{escape(w)}</dd>" for s, w in words)}</dl></div>'
    yield f"<h2>Points</h2><p>Every run, one a line.</p><p>{download(csv, 'points.csv')}</p>"
    own = colours(found)
    yield json_script("scaling", {"columns": list(LAW_COLUMNS), "analyses": [drawn(one, own) for one in found]})


def _facts(found: Sequence[Analysis]) -> str:
    """Counts in large letters."""
    first = found[0]
    spans = [law.span for law in first.laws.values()]
    counts = [
        (f"{len(first.laws)}", "models" if len(first.laws) > 1 else "model"),
        (f"{sum(len(series.x) for series in first.series.values())}", "runs"),
        (f"{max(series.sizes for series in first.series.values())}", "sizes"),
        (f"{max(spans):.3g}", "times from smallest to largest"),
    ]
    told = "".join(f"<div><b>{number}</b><span>{what}</span></div>" for number, what in counts)
    return f'<div class="facts card">{told}</div>'


def _glance(found: Sequence[Analysis]) -> str:
    parts = ["<h2>At a glance</h2>"]
    for one in found:
        told = "".join(f"<li>{escape(text)}</li>" for text in conclusions(one))
        parts.append(f'<div class="card"><h3>Over {NAMES[one.x]}</h3><ul>{told}</ul>{_warnings(one)}</div>')
    return "".join(parts)


def _warnings(one: Analysis) -> str:
    if not one.warnings:
        return ""
    told = "".join(f"<li>{escape(text)}</li>" for text in one.warnings)
    return f'<p><span class="word worse">before you use this</span></p><ul class="warnings">{told}</ul>'


def _figure(name: str, kind: str, title: str, words: str) -> str:
    return (
        f'<figure class="card {kind}"><h3>{title}</h3><figcaption>{words} <span class="where"></span></figcaption>'
        f'<div class="plot" id="{name}"></div></figure>'
    )


def _tables(one: Analysis, *, shown: bool) -> str:
    """Everything over one kind of size, readable without scripts."""
    laws = html_table(LAW_COLUMNS, [law_cells(one, model) for model in one.laws], text=(0,))
    pairs = html_table(PAIR_COLUMNS, [_pair(pair) for pair in one.pairs], text=(0, 5)) if one.pairs else ""
    rows = [predicted_cells(point, one) for point in one.predicted]
    predicted = html_table(prediction_columns(one), rows, text=(0,))
    title = f"<summary>Over {NAMES[one.x]}</summary><h3>{escape(equation(one))}</h3>"
    compared = f"<h3>Exponents compared</h3>{pairs}" if pairs else ""
    body = f"{title}{laws}{compared}<h3>Predicted</h3>{predicted}"
    return f'<details class="card"{" open" if shown else ""}>{body}</details>'


def _pair(pair: Pair) -> list[str]:
    *cells, verdict = pair_cells(pair)
    kind = "" if verdict in (INCONCLUSIVE, "no interval") else "better" if verdict == STEEPER else "worse"
    return [*cells, Markup(f'<span class="word {kind}">{escape(verdict)}</span>')]
