"""Reports of a study: Markdown, one page with plots that works offline, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unimixer.analysis.comparison import Question, compare_models
from unimixer.analysis.significance import REPLICATES
from unimixer.errors import missing_packages
from unimixer.experiments.plan import JUDGED, Study, read_plan
from unimixer.experiments.results import load_rows
from unimixer.io import write_text
from unimixer.report.study_figures import draw_figures
from unimixer.report.study_markdown import markdown
from unimixer.report.study_page import page

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
    """Write ``report.md``, ``figures/`` and last ``report.html`` of a study; nothing is trained for it.

    Args:
        folder: a study.
        base: label or backbone that the others are compared with (default: the plan's).
        tasks: tasks to report (default: all).
        metrics: metrics to compare. Fewer tasks and metrics, chosen before the rows are seen, leave fewer comparisons
            to correct for.
        replicates: draws of users for the intervals.
        title: above the report (default: from the folder's name).

    Returns:
        The page, or ``report.md`` where the packages that draw are not installed.
    """
    study, frame = read_plan(folder, Study), load_rows(folder)
    heading = title or f"Study {folder.resolve().name}"
    found = compare_models(
        frame.to_dicts(),
        folder,
        Question(base or study.base, tasks, metrics),
        replicates=replicates,
        seeds=range(study.seeds),
    )
    write_text(folder / MARKDOWN, markdown(found, title=heading))
    if missing_packages("report"):
        return folder / MARKDOWN
    draw_figures(found, folder / FIGURES)
    write_text(folder / PAGE, page(found, title=heading, csv=frame.write_csv()))
    return folder / PAGE
