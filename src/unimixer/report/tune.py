"""Write the report of a search for settings: how much was tried, what came out best, and whether it held on test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unimixer.analysis.comparison import ComparisonReport, Question, compare_models
from unimixer.analysis.formatting import NONE, number, signed
from unimixer.errors import missing_packages
from unimixer.experiments.plan import JUDGED
from unimixer.experiments.tuning.confirm import AS_IT_IS, confirmation_folder, confirmation_rows
from unimixer.experiments.tuning.plan import OpenSearch
from unimixer.experiments.tuning.search import BEST, best_trial, count_words
from unimixer.experiments.tuning.storage import FAILED, FINISHED, PRUNED, TrialRow, importances
from unimixer.io import write_text
from unimixer.report.figures import PALETTE, name_rows, new_figure, png_bytes, row_height, save_figure
from unimixer.report.html import render
from unimixer.report.study_tables import caption, metric_table, summary_table
from unimixer.report.tables import TextTable, bullets

MARKDOWN, PAGE, FIGURES = "report.md", "report.html", "figures"
SHOWN = 10
"""Best trials that are shown."""
HISTORY = (
    "Finished trials, the last evaluations of pruned ones, and the best so far. Trials far worse than the median lie "
    "outside of the axis."
)
IMPORTANCE = (
    "Share of the variance of the metric over the finished trials that a key explains, on its own and with others "
    "(fANOVA). Few trials give rough numbers."
)


class TuneReport(NamedTuple):
    """What a search found."""

    search: OpenSearch
    rows: Sequence[TrialRow]
    importance: dict[str, float]
    confirmation: ComparisonReport | None
    """Test metrics of the recipe as it is and of the best one, once they are confirmed."""

    @property
    def best(self) -> TrialRow | None:
        """The best trial."""
        return best_trial(self.search, self.rows)


def read_report(search: OpenSearch, rows: Sequence[TrialRow]) -> TuneReport:
    """Collect what there is to report, and compare the runs of a confirmation."""
    best, comparison = best_trial(search, rows), None
    confirmed = [] if best is None else confirmation_rows(search.folder, best)
    if len({row["variant"] for row in confirmed if row["status"] == "ok"}) == 2:
        task, metric = search.metric.rsplit(".", 1)
        metrics = tuple(name for name in dict.fromkeys((metric, "auc")) if name in JUDGED)
        question = Question(AS_IT_IS, (task,), metrics)
        comparison = compare_models(confirmed, confirmation_folder(search.folder), question)
    return TuneReport(search, rows, importances(search.folder), comparison)


def write_tune_report(report: TuneReport) -> Path:
    """Write ``report.md``, ``figures/`` and last ``report.html``; return the last file.

    Without the packages that draw it is ``report.md``.
    """
    folder = report.search.folder
    title = f"Search {folder.resolve().name}"
    write_text(folder / MARKDOWN, markdown(report, title=title))
    if missing_packages("report"):
        return folder / MARKDOWN
    pictures = []
    for name, figure, words in (
        ("history", history_figure(report), HISTORY),
        ("importance", importance_figure(report), IMPORTANCE),
    ):
        if figure is not None:
            save_figure(figure, folder / FIGURES / name)
            pictures.append((words, png_bytes(figure)))
    write_text(folder / PAGE, page(report, pictures, title=title))
    return folder / PAGE


def sentences(report: TuneReport) -> list[str]:
    """Say how much was tried and what came of it."""
    search, rows, best = report.search, report.rows, report.best
    evaluations, metric = sum(len(row.evaluations) for row in rows), search.metric
    said = [f"{count_words(rows)}; {evaluations} evaluations of {metric} on validation. No trial saw the test part."]
    if best is None or best.value is None:
        return [*said, "No trial has finished, so there is no best recipe."]
    tried, first = sum(row.state == FINISHED for row in rows), rows[0]
    if best.number == 0:
        return [*said, f"No trial is better than the recipe as it is ({number(best.value)})."]
    ahead = "" if first.value is None else f", {signed(best.value - first.value)} against the recipe as it is"
    said.append(f"Best on validation: trial {best.number} with {number(best.value)}{ahead}; its recipe is {BEST}.")
    if report.confirmation is None:
        said.append(
            f"The best of {tried} finished trials is partly the luckiest one: with other seeds and on test its "
            "settings may give less. --confirm 3 measures it."
        )
    return said


def trial_table(report: TuneReport, shown: int = SHOWN) -> TextTable:
    """List the best trials and the recipe as it is, with the changed keys."""
    sign = -1 if report.search.lower_is_better else 1
    finished = [row for row in report.rows if row.value is not None]
    ranked = sorted(finished, key=lambda row: (-sign * (row.value or 0.0), row.number))
    rows = ranked[:shown] + [row for row in ranked[shown:] if row.number == 0]
    keys = [dimension.key for dimension in report.search.space]
    cells = [
        [
            AS_IT_IS if row.number == 0 else str(row.number),
            number(row.value),
            *(_setting(row.settings.get(k)) for k in keys),
        ]
        for row in rows
    ]
    return TextTable(("trial", report.search.metric, *keys), cells)


def failure_table(report: TuneReport) -> TextTable:
    """List the failed trials with their sentences."""
    rows = [[str(row.number), row.error] for row in report.rows if row.state == FAILED]
    return TextTable(("trial", "error"), rows, text=(0, 1))


def importance_table(report: TuneReport) -> TextTable:
    """List the keys with the share of the variance that each explains."""
    return TextTable(("key", "importance"), [[key, f"{share:.2f}"] for key, share in report.importance.items()])


def confirmation_tables(report: TuneReport) -> list[tuple[TextTable, str]]:
    """List both recipes on test, a table and its caption for all metrics and for each that is judged."""
    comparison = report.confirmation
    if comparison is None:
        return []
    seeds = sorted({row["seed"] for row in comparison.rows})
    words = f"Mean and spread on test over seeds {', '.join(map(str, seeds))}, which no trial had."
    tables = [(summary_table(comparison.tables[0].lines, comparison.tasks[0]), words)]
    return tables + [(metric_table(one), f"{one.metric} of {one.task}: {caption(one)}.") for one in comparison.tables]


def markdown(report: TuneReport, *, title: str) -> str:
    """Write the report as Markdown."""
    parts = [f"# {title}", bullets(sentences(report))]
    for table, words in confirmation_tables(report):
        parts += ["## On test", table.markdown(), words] if len(parts) == 2 else [table.markdown(), words]
    for heading, table, words in _sections(report):
        if table.rows:
            parts += [f"## {heading}", table.markdown(), *([words] if words else [])]
    return "\n\n".join(parts) + "\n"


def page(report: TuneReport, pictures: Sequence[tuple[str, bytes]], *, title: str) -> str:
    """Render the page."""
    counts = [(str(sum(row.state == state for row in report.rows)), state) for state in (FINISHED, PRUNED, FAILED)]
    return render(
        "tune.html.j2",
        title=title,
        facts=[(str(len(report.rows)), "trials"), *counts],
        sentences=sentences(report),
        confirmation=confirmation_tables(report),
        sections=_sections(report),
        pictures=pictures,
        values=None,
    )


def _sections(report: TuneReport) -> list[tuple[str, TextTable, str]]:
    return [
        ("Best trials on validation", trial_table(report), "An empty cell is the value of the recipe."),
        ("Importance of keys", importance_table(report), IMPORTANCE),
        ("Trials that failed", failure_table(report), ""),
    ]


def history_figure(report: TuneReport) -> Any:
    """Draw the trials in their order."""
    figure = new_figure(8, 3.6)
    axis = figure.subplots()
    finished = [(row.number, row.value) for row in report.rows if row.value is not None]
    pruned = [(row.number, [*row.evaluations.values()][-1]) for row in report.rows if row.state == PRUNED]
    pick = min if report.search.lower_is_better else max
    best: list[float] = []
    for _, value in finished:
        best.append(value if not best else pick(best[-1], value))
    for points, marker, color, label in (
        (finished, "o", PALETTE[0], "finished"),
        (pruned, "x", PALETTE[8], "pruned, at its last evaluation"),
    ):
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=color, label=label, markersize=4)
    if finished:
        numbers = [n for n, _ in finished]
        axis.step(numbers, best, where="post", color=PALETTE[1], label="best so far")
        if finished[0][0] == 0:
            axis.axhline(finished[0][1], color=PALETTE[2], linestyle=":", label=AS_IT_IS)
        axis.set_ylim(*_range(finished[0][1], sorted(value for _, value in finished)[len(finished) // 2], best[-1]))
    axis.set_xlabel("trial")
    axis.set_ylabel(f"{report.search.metric} on validation")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")
    return figure


def _range(*values: float) -> tuple[float, float]:
    """Return the ends of an axis around some values: a trial that diverged would leave the others no room."""
    margin = 0.4 * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin


def importance_figure(report: TuneReport) -> Any | None:
    """Draw the importance of the keys; None if there is none."""
    if not report.importance:
        return None
    keys = list(report.importance)
    figure = new_figure(8, 0.8 + row_height(keys, 0.32) * len(keys))
    axis = figure.subplots()
    axis.barh(range(len(keys)), [report.importance[key] for key in keys], color=PALETTE[0])
    name_rows(axis, keys)
    axis.set_xlabel("share of the variance")
    return figure


def _setting(value: Any) -> str:
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)
