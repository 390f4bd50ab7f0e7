"""Reports of scaling laws: Markdown, one page with plots that works offline, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unimixer.analysis.bootstrap import REPLICATES
from unimixer.analysis.points import Points, points_csv
from unimixer.analysis.scaling_laws import analyze, analyze_jointly
from unimixer.analysis.series import Reading
from unimixer.errors import UnimixerError, missing_packages
from unimixer.io import write_text
from unimixer.report.scaling_figures import draw_figures
from unimixer.report.scaling_markdown import markdown
from unimixer.report.scaling_page import page

MARKDOWN, PAGE, FIGURES = "scaling.md", "scaling.html", "figures"
"""Beside a study's own report, which has other names."""


def write_report(
    points: Points,
    folder: Path,
    *,
    reading: Reading | None = None,
    at: Sequence[float] = (),
    title: str,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Path]:
    """Write ``figures/``, ``scaling.md`` and ``scaling.html``; nothing is trained for it.

    Args:
        points: the runs; every kind of size that all of them have is fitted.
        folder: where to.
        reading: how the metric becomes what is fitted.
        at: parameters to predict.
        title: above the report.
        replicates: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The files, the page first; ``scaling.md`` alone where the packages that draw are not installed.
    """
    if folder.exists() and not folder.is_dir():
        raise UnimixerError(f"{folder} is a file; choose a folder with --out")
    found = [
        analyze(points, x=x, reading=reading, at=at if x == "params" else (), replicates=replicates, seed=seed)
        for x in points.sizes
    ]
    joint = analyze_jointly(points, reading, replicates=replicates, seed=seed)
    drawn = not missing_packages("report")
    pictures = draw_figures(found, folder / FIGURES) if drawn else []
    shown = {one.x: f"{FIGURES}/scaling-{one.x}.png" for one in found if drawn}
    write_text(folder / MARKDOWN, markdown(found, joint, title=title, pictures=shown))
    if not drawn:
        return [folder / MARKDOWN]
    write_text(folder / PAGE, page(found, joint, title=title, csv=points_csv(points)))
    return [folder / PAGE, folder / MARKDOWN, *pictures]
