"""A study as Markdown: conclusions first, then one table a metric, then the method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unimixer.analysis.comparison import BASE, BETTER, INCONCLUSIVE, WORSE, ComparisonReport, Table
from unimixer.analysis.formatting import signed
from unimixer.analysis.selection import Place
from unimixer.report.methods import method
from unimixer.report.study_tables import COLUMNS, METRIC_NAMES, all_metrics, caption, cells


def markdown(found: ComparisonReport, *, title: str) -> str:
    """The whole report."""
    return "\n\n".join([f"# {title}", *_parts(found)]) + "\n"


def _parts(found: ComparisonReport) -> Iterator[str]:
    yield intro(found)
    for place in found.places:
        yield f"## {place.words}"
        yield "\n".join(f"- {line}" for line in conclusions(found, place))
        for task in found.tasks:
            tables = [table for table in found.tables if (table.place, table.task) == (place, task)]
            if not tables:
                continue
            yield f"### {place.words}: {task}"
            names = ["model", *METRIC_NAMES.values()]
            yield markdown_table(names, all_metrics(tables[0].lines, task), text=(0,))
            for table in tables:
                yield f"{METRIC_NAMES[table.metric]} of {task} against {found.base}:"
                yield markdown_table(COLUMNS, [cells(line) for line in table.lines], text=(0, len(COLUMNS) - 1))
                yield f"{caption(table)[:1].upper()}{caption(table)[1:]}." if caption(table) else "No scores were kept."
    if found.failures:
        yield f"## Runs that failed\n\n{len(found.failures)} of {len(found.rows)} rows:"
        rows = [[str(row["key"]), str(row.get("error") or "")] for row in found.failures]
        yield markdown_table(["row", "error"], rows, text=(0, 1))
    yield "## Method"
    for subject, words in method(found):
        yield f"{subject}. {words}"


def intro(found: ComparisonReport) -> str:
    """What the rows are."""
    models = len({row["variant"] for row in found.rows})
    failed = f", {len(found.failures)} of them failed" if found.failures else ""
    return (
        f"{len(found.rows)} runs{failed}: {models} model{'s' if models > 1 else ''}, compared with {found.base}. "
        "A difference gets a word only where its corrected p is below 0.05; no row is set in bold."
    )


def conclusions(found: ComparisonReport, place: Place) -> list[str]:
    """One sentence for each task and metric of a place."""
    return [
        f"{METRIC_NAMES[t.metric]} of {t.task}: {sentence(t, found.base)}" for t in found.tables if t.place == place
    ]


def sentence(table: Table, base: str) -> str:
    """Name the models that are better than the base, worse, and inconclusive."""
    parts = []
    for word, preposition in ((BETTER, "than "), (WORSE, "than "), (INCONCLUSIVE, "against ")):
        lines = [line for line in table.lines if line.conclusion == word and line.compared is not None]
        names = [f"{line.chosen.variant} ({signed(line.compared.estimate)})" for line in lines if line.compared]
        if names:
            parts.append(f"{word} {preposition}{base}: {', '.join(names)}")
    others = [f"{line.chosen.variant}: {line.conclusion}" for line in table.lines if _no_word(line.conclusion)]
    return "; ".join(parts + others) or "nothing to compare"


def _no_word(conclusion: str) -> bool:
    return conclusion not in (BETTER, WORSE, INCONCLUSIVE, BASE)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int]) -> str:
    """A table; columns that are not text stand right."""
    marks = ["---" if place in text else "---:" for place in range(len(columns))]
    lines = [list(columns), marks, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
