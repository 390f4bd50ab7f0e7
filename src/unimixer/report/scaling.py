"""Write the reports of scaling laws: Markdown, pictures, and one page that works without network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unimixer.analysis.bootstrap import REPLICATES
from unimixer.analysis.joint_law import JointLaw
from unimixer.analysis.points import Points, points_csv
from unimixer.analysis.scaling_laws import Analysis, analyze, analyze_jointly
from unimixer.analysis.series import NAMES, Reading
from unimixer.errors import UnimixerError, missing_packages
from unimixer.io import write_text
from unimixer.report.methods import markdown_method, scaling_method
from unimixer.report.scaling_figures import draw_figures
from unimixer.report.scaling_page import page
from unimixer.report.scaling_tables import (
    conclusions,
    equation,
    joint_table,
    joint_warnings,
    law_table,
    pair_table,
    prediction_table,
    ratio_table,
    rows_table,
    slope_table,
)
from unimixer.report.tables import bullets

MARKDOWN, PAGE, FIGURES = "scaling.md", "scaling.html", "figures"
"""Other names than those of a study's report, which may be in the same folder."""


@dataclass(frozen=True)
class AnalysisOptions:
    """How the laws of a report are fitted."""

    reading: Reading | None = None
    """How the metric becomes the fitted value."""
    at: Sequence[float] = ()
    """Numbers of parameters to predict."""
    replicates: int = REPLICATES
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of the draws."""


def write_report(points: Points, folder: Path, *, title: str, options: AnalysisOptions | None = None) -> list[Path]:
    """Write ``figures/``, ``scaling.md`` and ``scaling.html``, without training anything.

    Args:
        points: the runs; every kind of size that all of them have is fitted.
        folder: folder to write to.
        title: heading of the report.
        options: how the laws are fitted.

    Returns:
        The files, the page first; ``scaling.md`` alone if the packages that draw are not installed.
    """
    if folder.exists() and not folder.is_dir():
        raise UnimixerError(f"{folder} is a file; choose a folder with --out")
    options = options or AnalysisOptions()
    reading, replicates, seed = options.reading, options.replicates, options.seed
    analyses = [
        analyze(points, x=x, reading=reading, at=options.at if x == "params" else (), replicates=replicates, seed=seed)
        for x in points.sizes
    ]
    joint = analyze_jointly(points, reading, replicates=replicates, seed=seed)
    has_packages = not missing_packages("report")
    figures = draw_figures(analyses, folder / FIGURES) if has_packages else []
    pictures = {analysis.x: f"{FIGURES}/scaling-{analysis.x}.png" for analysis in analyses if has_packages}
    write_text(folder / MARKDOWN, markdown(analyses, joint, title=title, pictures=pictures))
    if not has_packages:
        return [folder / MARKDOWN]
    write_text(folder / PAGE, page(analyses, joint, title=title, csv=points_csv(points)))
    return [folder / PAGE, folder / MARKDOWN, *figures]


def markdown(
    analyses: Sequence[Analysis], joint: Mapping[str, JointLaw], *, title: str, pictures: Mapping[str, str]
) -> str:
    """Write scaling laws as Markdown: conclusions, tables, warnings, and the method.

    Args:
        analyses: one for each kind of size.
        joint: laws over parameters and rows, by model.
        title: heading of the report.
        pictures: the picture of each kind of size, as a path from the report.
    """
    method = markdown_method(scaling_method(analyses[0], joint=bool(joint)))
    return "\n\n".join([f"# {title}", *_parts(analyses, joint, pictures), method])


def _parts(analyses: Sequence[Analysis], joint: Mapping[str, JointLaw], pictures: Mapping[str, str]) -> Iterator[str]:
    for analysis in analyses:
        yield f"## Over {NAMES[analysis.x]}"
        yield bullets(conclusions(analysis))
        if analysis.x in pictures:
            yield f"![{analysis.words} over {NAMES[analysis.x]}]({pictures[analysis.x]})"
        yield f"{equation(analysis)}:"
        yield law_table(analysis).markdown()
        if analysis.pairs:
            yield "Exponents compared:"
            yield pair_table(analysis).markdown()
        if analysis.ratios:
            yield "Compared at equal size:"
            yield ratio_table(analysis).markdown()
            yield "Do the curves part?"
            yield slope_table(analysis).markdown()
        yield "Predicted:"
        yield prediction_table(analysis).markdown()
        if analysis.warnings:
            yield "Before you use this:"
            yield bullets(analysis.warnings)
    if joint:
        yield "## Over parameters and data"
        yield joint_table(joint).markdown()
        if rows_table(joint).rows:
            yield "The law over parameters at each number of training rows:"
            yield rows_table(joint).markdown()
        if joint_warnings(joint):
            yield bullets(joint_warnings(joint))
