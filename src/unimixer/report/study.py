"""Write the reports of a study: Markdown, pictures, and one page that works without network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unimixer.analysis.comparison import ComparisonReport, Question, compare_models
from unimixer.analysis.significance import REPLICATES
from unimixer.errors import missing_packages
from unimixer.experiments.plan import JUDGED, Study
from unimixer.experiments.plan_file import read_plan
from unimixer.experiments.results import load_rows
from unimixer.io import write_text
from unimixer.report.methods import markdown_method, study_method
from unimixer.report.study_figures import draw_figures
from unimixer.report.study_page import page
from unimixer.report.study_tables import (
    METRIC_NAMES,
    caption,
    conclusions,
    failure_table,
    intro,
    metric_table,
    summary_table,
)
from unimixer.report.tables import bullets

MARKDOWN, PAGE, FIGURES = "report.md", "report.html", "figures"


def write_report(
    folder: Path,
    *,
    base: str | None = None,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] = JUDGED,
    replicates: int = REPLICATES,
    title: str | None = None,
) -> Path:
    """Write ``report.md``, ``figures/`` and last ``report.html`` of a study, without training anything.

    Args:
        folder: a study.
        base: label or backbone that the others are compared with (default: the plan's).
        tasks: tasks to report (default: all).
        metrics: metrics to compare. Fewer tasks and metrics, chosen before the rows are seen, leave fewer comparisons
            to correct for.
        replicates: draws of users for the intervals.
        title: heading of the report (default: from the folder's name).

    Returns:
        The page, or ``report.md`` if the packages that draw are not installed.
    """
    study, frame = read_plan(folder, Study), load_rows(folder)
    heading = title or f"Study {folder.resolve().name}"
    comparison = compare_models(
        frame.to_dicts(),
        folder,
        Question(base or study.base, tasks, metrics),
        replicates=replicates,
        seeds=range(study.seeds),
    )
    write_text(folder / MARKDOWN, markdown(comparison, title=heading))
    if missing_packages("report"):
        return folder / MARKDOWN
    draw_figures(comparison, folder / FIGURES)
    write_text(folder / PAGE, page(comparison, title=heading, csv=frame.write_csv()))
    return folder / PAGE


def markdown(comparison: ComparisonReport, *, title: str) -> str:
    """Write the comparison as Markdown: conclusions first, then one table for each metric, then the method."""
    return "\n\n".join([f"# {title}", *_parts(comparison), markdown_method(study_method(comparison))])


def _parts(comparison: ComparisonReport) -> Iterator[str]:
    yield intro(comparison)
    for group in comparison.groups:
        yield f"## {group.words}"
        yield bullets(conclusions(comparison, group))
        for task in comparison.tasks:
            tables = [table for table in comparison.tables if (table.group, table.task) == (group, task)]
            if not tables:
                continue
            yield f"### {group.words}: {task}"
            yield summary_table(tables[0].lines, task).markdown()
            for table in tables:
                yield f"{METRIC_NAMES[table.metric]} of {task} against {comparison.base}:"
                yield metric_table(table).markdown()
                yield f"{caption(table)[:1].upper()}{caption(table)[1:]}." if caption(table) else "No scores were kept."
    if comparison.failures:
        yield f"## Runs that failed\n\n{len(comparison.failures)} of {len(comparison.rows)} rows:"
        yield failure_table(comparison).markdown()
