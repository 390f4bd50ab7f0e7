"""Replayed days as tables, a page and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from unimixer.analysis.days import Judgement
from unimixer.experiments.days import DAILY, FROZEN, RETRAINED, STRATEGIES, Replayed
from unimixer.io import write_text
from unimixer.report.figures import add_legend, model_colors, new_figure, save_figure, wrapped
from unimixer.report.tables import TextTable

METRICS = {"auc": "AUC", "uauc": "UAUC", "normalised_entropy": "NE", "calibration": "calibration"}
LINES = {DAILY: "-", RETRAINED: "--", FROZEN: ":"}
COLUMNS = ("day", "recipe", "model", "task", *METRICS.values(), "unknown ids", "unknown items", "seconds", "samples")


def day_table(replayed: Sequence[Replayed]) -> TextTable:
    """Return a line for every day, model and task: means over the seeds."""
    rows = []
    for (day, recipe, strategy), own in _groups(replayed).items():
        for task in own[0].metrics:
            numbers = [_number(_mean(own, lambda one, m=metric, t=task: one.metrics[t][m])) for metric in METRICS]
            shares = [_share(own[0].unknown.get(key)) for key in ("ids", "items")]
            cost = [f"{mean(one.seconds for one in own):.1f}", f"{own[0].samples:,}"]
            rows.append([day, recipe, strategy, task, *numbers, *shares, *cost])
    return TextTable(COLUMNS, rows, text=(0, 1, 2, 3))


def total_table(replayed: Sequence[Replayed]) -> TextTable:
    """Return a line for every model and task: the mean over all days, and the time of all updates together."""
    rows = []
    models = dict.fromkeys((one.recipe, one.strategy) for one in replayed)
    for recipe, strategy in models:
        own = [one for one in replayed if (one.recipe, one.strategy) == (recipe, strategy)]
        days, first = len({one.day for one in own}), min(one.day for one in own)
        seeds = len({one.seed for one in own})
        later = [one for one in own if one.day != first]  # the first model is the same for all
        for task in own[0].metrics:
            numbers = [_number(_mean(own, lambda one, m=metric, t=task: one.metrics[t][m])) for metric in METRICS]
            seconds, samples = (sum(getattr(one, key) for one in later) / seeds for key in ("seconds", "samples"))
            rows.append([recipe, strategy, task, f"{days}", *numbers, f"{seconds:.1f}", f"{samples:,.0f}"])
    columns = ("recipe", "model", "task", "days", *METRICS.values(), "seconds of updates", "samples of updates")
    return TextTable(columns, rows, text=(0, 1, 2))


def judgement_table(judgements: Sequence[Judgement]) -> TextTable:
    """Return a line for every comparison."""
    rows = [
        [
            " ".join(one.model),
            " ".join(one.base),
            one.task,
            one.metric,
            f"{one.compared.estimate:+.5f}",
            f"{one.compared.low:+.5f} to {one.compared.high:+.5f}",
            "" if one.holm is None else f"{one.holm:.4f}",
            one.conclusion,
        ]
        for one in judgements
    ]
    columns = ("model", "against", "task", "metric", "difference", "95% interval", "p (Holm)", "conclusion")
    return TextTable(columns, rows, text=(0, 1, 2, 3, 7))


def write_page(replayed: Sequence[Replayed], judgements: Sequence[Judgement], out: Path) -> Path:
    """Write all tables as Markdown."""
    meanings = "\n".join(f"- {name}: {meaning}" for name, meaning in STRATEGIES.items())
    parts = [
        "# Day after day",
        "Each day is predicted by the models of the day before; then they train on it. An id is unknown to a model "
        "that got no row for it.",
        meanings,
        "## All days",
        total_table(replayed).markdown(),
        "## Differences, mean over the days",
        judgement_table(judgements).markdown(),
        "## Day by day",
        day_table(replayed).markdown(),
    ]
    path = out / "days.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def draw_days(replayed: Sequence[Replayed], out: Path) -> list[Path]:
    """Draw the metrics of the first task and the shares of unknown items by day."""
    task = next(iter(replayed[0].metrics))
    figure = new_figure(12.0, 7.0)
    axes = figure.subplots(2, 3, sharex=True)
    colors, groups = model_colors(one.recipe for one in replayed), _groups(replayed)
    for axis, (key, title) in zip(
        axes.flat, {**METRICS, "unknown": "unknown ids", "seconds": "seconds of update"}.items(), strict=True
    ):
        for recipe, strategy in dict.fromkeys((one.recipe, one.strategy) for one in replayed):
            own = {day: ones for (day, name, way), ones in groups.items() if (name, way) == (recipe, strategy)}
            values = [_value(ones, key, task) for ones in own.values()]
            if any(value is not None for value in values):
                axis.plot(
                    [day[5:] for day in own],
                    values,
                    color=colors[recipe],
                    linestyle=LINES[strategy],
                    marker=".",
                    label=f"{recipe} {STRATEGIES[strategy]}",
                )
        axis.set_title(wrapped(f"{title} of {task}" if key in METRICS else title, 40))
        axis.grid(alpha=0.3)
        axis.tick_params(axis="x", rotation=60)
    return save_figure(add_legend(figure, axes), out / "days")


def _value(own: Sequence[Replayed], key: str, task: str) -> float | None:
    if key == "unknown":
        return own[0].unknown.get("ids")
    if key == "seconds":
        return mean(one.seconds for one in own)
    return _mean(own, lambda one: one.metrics[task][key])


def _groups(replayed: Sequence[Replayed]) -> Mapping[tuple[str, str, str], list[Replayed]]:
    """Group by day, recipe and strategy; a group holds the seeds."""
    groups: dict[tuple[str, str, str], list[Replayed]] = {}
    for one in sorted(replayed, key=lambda one: one.day):
        groups.setdefault((one.day, one.recipe, one.strategy), []).append(one)
    return groups


def _mean(own: Sequence[Replayed], value: Any) -> float | None:
    values = [value(one) for one in own]
    return None if any(one is None for one in values) else float(mean(values))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
