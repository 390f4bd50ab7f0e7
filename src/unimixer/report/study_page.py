"""A study as one page that needs no network: plots, tables, method and the rows themselves in one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from unimixer.analysis.comparison import BETTER, WORSE, ComparisonReport, Line
from unimixer.analysis.formatting import p_value, signed
from unimixer.analysis.selection import Place
from unimixer.errors import MissingExtraError
from unimixer.report.methods import method
from unimixer.report.study_markdown import intro, sentence
from unimixer.report.study_payload import payload
from unimixer.report.study_script import SCRIPT
from unimixer.report.study_tables import COLUMNS, METRIC_NAMES, all_metrics, caption, cells
from unimixer.report.style import STYLE


class Markup(str):
    """Text that is HTML already."""


PLOTS = (
    ("differences", "wide-plot", "Difference to the base", "Mean over seeds with its interval; small dots are seeds."),
    ("seeds", "", "Every seed", "One dot a run, a bar at the mean."),
    ("speed", "", "Quality against speed", "Mean and spread against samples a second in training."),
    ("budgets", "", "Quality against budget", "Mean and spread over seeds at each budget."),
    ("search", "", "Choice of the learning rate", "On validation, with the first seed; the large mark was chosen."),
)
"""Of each plot its id, class, title and what it shows."""


def page(found: ComparisonReport, *, title: str, csv: str) -> str:
    """The page.

    Args:
        found: the tables.
        title: above the page.
        csv: all rows, to be downloaded from it.
    """
    body = "\n".join(_parts(found, title, csv))
    return document(title, body, scripts=[plotly(), SCRIPT])


def document(title: str, body: str, *, scripts: Sequence[str] = ()) -> str:
    """An HTML document in the looks of the reports, which loads nothing."""
    after = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n{body}\n</main>\n{after}</body>\n</html>\n"
    )


def plotly() -> str:
    """The plotting library's own script, to be put into a page whole."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("a page with plots", "report") from None
    return str(get_plotlyjs())


def json_script(name: str, values: Any) -> str:
    """Values for a script to read, by their id."""
    text = json.dumps(values, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def html_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[int],
    name: str = "",
    over: Sequence[tuple[str, int]] = (),
) -> str:
    """A table that scrolls where it is too wide; cells are escaped unless they are :class:`Markup`.

    Args:
        columns: their names.
        rows: cells.
        text: columns that stand left.
        name: a class of the table.
        over: words above the columns after the first, each with how many it spans.
    """

    def cell(place: int, value: str) -> str:
        shown = value if isinstance(value, Markup) else escape(value)
        return f"<td{' class=text' if place in text else ''}>{shown}</td>"

    above = "".join(f'<th class=over colspan="{span}">{escape(words)}</th>' for words, span in over)
    above = f"<tr><th class=over></th>{above}</tr>" if over else ""
    head = "".join(f"<th{' class=text' if n in text else ''}>{escape(c)}</th>" for n, c in enumerate(columns))
    body = "".join(f"<tr>{''.join(cell(n, value) for n, value in enumerate(row))}</tr>" for row in rows)
    kind = f" {name}" if name else ""
    return f'<div class="scroll{kind}"><table><thead>{above}<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _parts(found: ComparisonReport, title: str, csv: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>\n<p>{escape(intro(found))}</p>"
    yield _facts(found)
    yield "<h2>At a glance</h2>"
    for place in found.places:
        yield _glance(found, place)
    yield '<h2>Look closer</h2>\n<noscript><p class="card">The plots need scripts; all tables are below.</p></noscript>'
    yield '<section><div id="controls" class="controls card"></div>'
    yield '<p id="not-there" class="card" hidden>This metric cannot be computed on these data.</p>'
    yield '<div id="shown">'
    yield f'<div class="plots">{"".join(_figure(*plot) for plot in PLOTS)}</div>'
    yield '<h2>Table</h2><div class="card"><p class="where soft"></p><div id="table" class="scroll"></div>'
    yield '<p id="table-caption" class="caption"></p></div></div></section>'
    yield "<h2>All tables</h2>"
    for place in found.places:
        yield _tables(found, place)
    if found.failures:
        yield f"<h2>Runs that failed</h2><p>{len(found.failures)} of {len(found.rows)} rows.</p>"
        rows = [[str(row["key"]), str(row.get("error") or "")] for row in found.failures]
        yield f'<div class="card">{html_table(["row", "error"], rows, text=(0, 1), name="error")}</div>'
    yield "<h2>How it was done, and how to read it</h2>"
    told = "".join(f"<dt>{escape(subject)}</dt><dd>{escape(words)}</dd>" for subject, words in method(found))
    yield f'<div class="card"><dl>{told}</dl></div>'
    yield f"<h2>Rows</h2><p>Every run with all its numbers, one a line.</p><p>{download(csv)}</p>"
    yield json_script("study", payload(found))


def _facts(found: ComparisonReport) -> str:
    """Counts in large letters."""
    stores = len({place.store_hash for place in found.places})
    counts = [
        (len({row["variant"] for row in found.rows}), "models"),
        (len({(place.budget_kind, place.budget) for place in found.places}), "budgets"),
        (stores, "data sets" if stores > 1 else "data set"),
        (len({row["seed"] for row in found.rows}), "seeds"),
        (len(found.rows), "runs"),
        (len(found.failures), "failed"),
    ]
    told = "".join(f"<div><b>{number:,}</b><span>{what}</span></div>" for number, what in counts)
    return f'<div class="facts card">{told}</div>'


def _glance(found: ComparisonReport, place: Place) -> str:
    """Models by tasks and metrics: the difference and its word."""
    tables = [table for table in found.tables if table.place == place]
    tasks = list(dict.fromkeys(table.task for table in tables))
    over = [(task, sum(table.task == task for table in tables)) for task in tasks]
    rows = []
    for number, line in enumerate(tables[0].lines):
        rows.append([line.chosen.variant, *(_glance_cell(table.lines[number]) for table in tables)])
    told = html_table(["", *(METRIC_NAMES[table.metric] for table in tables)], rows, text=(0,), over=over)
    corrected = f"p corrected for {tables[0].comparisons} comparisons." if tables[0].comparisons else ""
    return (
        f'<div class="card"><h3>{escape(place.words)}</h3><p class="soft">Difference to {escape(found.base)}. '
        f"{corrected}</p>{told}</div>"
    )


def _glance_cell(line: Line) -> str:
    if line.compared is None:
        return line.conclusion
    kind = line.conclusion if line.conclusion in (BETTER, WORSE) else ""
    tip = f"{line.conclusion}; {signed(line.compared.low)} to {signed(line.compared.high)}; p {p_value(line.holm)}"
    word = f" {line.conclusion}" if kind else ""
    return Markup(f'<span class="word {kind}" title="{escape(tip)}">{signed(line.compared.estimate)}{word}</span>')


def _figure(name: str, kind: str, title: str, words: str) -> str:
    return (
        f'<figure class="card {kind}"><h3>{title}</h3><figcaption>{words} <span class="where"></span></figcaption>'
        f'<div class="plot" id="{name}"></div></figure>'
    )


def _tables(found: ComparisonReport, place: Place) -> str:
    """Everything that was compared at one place, readable without scripts."""
    parts = []
    for task in found.tasks:
        tables = [table for table in found.tables if (table.place, table.task) == (place, task)]
        if not tables:
            continue
        names = ["model", *METRIC_NAMES.values()]
        parts.append(f"<h3>{escape(task)}, mean ± spread over seeds on the test rows</h3>")
        parts.append(html_table(names, all_metrics(tables[0].lines, task), text=(0,)))
        for table in tables:
            parts.append(f"<h3>{METRIC_NAMES[table.metric]} of {escape(task)}</h3>")
            parts.append(f"<p class=soft>{escape(sentence(table, found.base))}.</p>")
            rows = [[*cells(line)[:-1], _word(line.conclusion)] for line in table.lines]
            parts.append(html_table(COLUMNS, rows, text=(0, len(COLUMNS) - 1)))
            parts.append(f'<p class="caption">{escape(caption(table))}</p>')
    return f'<details class="card"><summary>{escape(place.words)}</summary>{"".join(parts)}</details>'


def _word(verdict: str) -> str:
    kind = verdict if verdict in (BETTER, WORSE) else ""
    return Markup(f'<span class="word {kind}">{escape(verdict)}</span>')


def download(csv: str, name: str = "rows.csv") -> str:
    """A button that saves a CSV which the page itself carries."""
    content = base64.b64encode(csv.encode("utf-8")).decode("ascii")
    return f'<a class="button" download="{name}" href="data:text/csv;base64,{content}">Download {name}</a>'
