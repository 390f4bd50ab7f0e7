"""Write the reading of an experiment: tables, Markdown, JSON and one page that works without network."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from unimixer.abtest.analysis.reading import Reading
from unimixer.abtest.analysis.statistics import Effect
from unimixer.abtest.analysis.verdict import BROKEN, DO_NOT_SHIP, HARMED, HOLDS, SHIP, guardrail_state
from unimixer.analysis.formatting import NONE, p_value
from unimixer.errors import UnimixerError
from unimixer.io import write_text
from unimixer.report.figures import PALETTE
from unimixer.report.html import render
from unimixer.report.tables import Badge, TextTable, bullets

_KINDS = {SHIP: "better", DO_NOT_SHIP: "worse", BROKEN: "worse"}
_COLUMNS = ("metric", "arm", "units", "control", "treatment", "effect", "interval", "p", "p corrected", "result")
METHOD = (
    (
        "Order of reading",
        "Checks come first: the specification, the split, one arm a unit, outcomes of every arm, clocks, order in "
        "time, bots, balance before the start. While one fails, no effect is shown.",
    ),
    (
        "Units and outcomes",
        "A unit counts from its first exposure. Units that saw several arms, shadow arms and overrides are left out. A "
        "metric over days counts the units that are old enough for all of them.",
    ),
    (
        "Effects",
        "Differences of means by Welch's t-test, of ratios by the delta method, both after CUPED where there are "
        "covariates. Relative intervals are those of the logarithm of the ratio.",
    ),
    (
        "Sequential intervals",
        "An asymptotic confidence sequence with the boundary of a normal mixture (arXiv:2103.06476): all intervals of "
        "all looks hold the true effect together at the stated level, as units grow.",
    ),
    (
        "Guardrails and correction",
        "p-values of deciding metrics are corrected for all metrics and arms. Guardrails have one-sided bounds at the "
        "same level and are not corrected: all must hold.",
    ),
)


def as_of_day(text: str) -> int:
    """Read a day as microseconds since 1970 in UTC.

    Raises:
        UnimixerError: it is no day.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UnimixerError(f"--as-of {text!r} is no day; write it as 2026-03-15 (UTC)") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def headline(reading: Reading) -> str:
    """Write the verdict in one line."""
    verdict, day = reading.verdict, datetime.fromtimestamp(reading.as_of / 1e6, tz=UTC).date()
    arm = f" {verdict.arm}" if verdict.arm else ""
    return f"{reading.experiment.name}, {day}: {verdict.decision}{arm}"


def check_table(reading: Reading) -> TextTable:
    """Write the checks in their order."""
    rows = [
        (check.name, Badge("passed", "better") if check.passed else Badge("failed", "worse"), check.sentence)
        for check in reading.checks
    ]
    return TextTable(("check", "result", "finding"), rows, text=(0, 1, 2))


def effect_table(reading: Reading) -> TextTable:
    """Write the effects of all units; no rows while a check fails."""
    return TextTable(_COLUMNS, [_cells(reading, effect) for effect in reading.effects], text=(0, 1))


def segment_table(reading: Reading) -> TextTable:
    """Write the effects of the segments that the specification names."""
    columns = ("segment", *_COLUMNS[:-2])
    rows = [(effect.segment, *_cells(reading, effect)[:-2]) for effect in reading.segments]
    return TextTable(columns, rows, text=(0, 1, 2))


def markdown_report(reading: Reading) -> str:
    """Write the report as Markdown."""
    verdict = reading.verdict
    parts = [f"# {headline(reading)}", bullets(verdict.reasons), "Next:", bullets(verdict.next_steps)]
    for title, content in (
        ("Checks", check_table(reading)),
        ("Effects", effect_table(reading)),
        ("Segments", segment_table(reading)),
    ):
        if content.rows:
            parts += [f"## {title}", content.markdown()]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(reading: Reading) -> str:
    """Render the page."""
    experiment, verdict = reading.experiment, reading.verdict
    facts = [(f"{count:,}", arm) for arm, count in sorted(reading.units.items())]
    passed = sum(check.passed for check in reading.checks)
    return render(
        "abtest.html.j2",
        title=f"{experiment.name}: {verdict.decision}{f' {verdict.arm}' if verdict.arm else ''}",
        intro=experiment.description or f"Version {experiment.version}, {experiment.start} to {experiment.end}.",
        badge=Badge(verdict.decision, _KINDS.get(verdict.decision, "")),
        verdict=verdict,
        facts=[*facts, (f"{passed} of {len(reading.checks)}", "checks passed")],
        checks=check_table(reading),
        effects=effect_table(reading),
        segments=segment_table(reading),
        method=METHOD,
        values=plot_values(reading),
    )


def plot_values(reading: Reading) -> dict[str, Any]:
    """Return the values that the script of the page plots."""
    arms = list(reading.experiment.weights)
    effects = [effect for effect in reading.effects if effect.relative is not None]
    metrics = {metric.name: metric for metric in reading.experiment.metrics}
    days = range(max((day for _, day, _ in reading.entries), default=-1) + 1)
    entered = {(arm, day): count for arm, day, count in reading.entries}
    course = {arm: [entered.get((arm, day), 0) for day in days] for arm in arms}
    return {
        "start": reading.experiment.start.isoformat(),
        "effects": [
            {
                "name": effect.metric if len(arms) == 2 else f"{effect.metric}, {effect.arm}",
                "effect": effect.relative,
                "low": effect.relative_low,
                "high": effect.relative_high,
                "guardrail": metrics[effect.metric].guardrail,
                "words": str(_cells(reading, effect)[6]),
                "color": PALETTE[(arms.index(effect.arm)) % len(PALETTE)],
            }
            for effect in effects
        ],
        "units": [
            {"arm": arm, "new": counts, "color": PALETTE[index % len(PALETTE)]}
            for index, (arm, counts) in enumerate(course.items())
        ],
    }


def write_reading(
    reading: Reading, *, markdown: Path | None = None, html: Path | None = None, json_file: Path | None = None
) -> list[Path]:
    """Write the files that are asked for, and return them."""
    contents = {}
    if markdown is not None:
        contents[markdown] = markdown_report(reading)
    if html is not None:
        contents[html] = page(reading)
    if json_file is not None:
        contents[json_file] = json.dumps(reading.as_json(), indent=1) + "\n"
    for path, text in contents.items():
        write_text(path, text)
    return list(contents)


def _cells(reading: Reading, effect: Effect) -> tuple[str, ...]:
    relative = effect.relative is not None
    values = (effect.relative, effect.relative_low, effect.relative_high)
    numbers = values if relative else (effect.difference, effect.low, effect.high)
    shown = [f"{value:+.2%}" if relative else f"{value:+.4g}" for value in numbers if value is not None]
    return (
        effect.metric,
        effect.arm,
        f"{effect.units_control + effect.units:,}",
        f"{effect.control:.4g}",
        f"{effect.treatment:.4g}",
        shown[0],
        f"{shown[1]} to {shown[2]}",
        p_value(effect.p),
        NONE if effect.p_corrected is None else p_value(effect.p_corrected),
        _result(reading, effect),
    )


def _result(reading: Reading, effect: Effect) -> Badge:
    metric = next(metric for metric in reading.experiment.metrics if metric.name == effect.metric)
    if metric.guardrail:
        state = guardrail_state(metric, effect)
        return Badge(f"guardrail {state}", {HOLDS: "better", HARMED: "worse"}.get(state, ""))
    if effect.p_corrected is None or effect.p_corrected >= reading.experiment.alpha:
        return Badge("no effect beyond chance", "")
    better = (effect.difference > 0) == (metric.direction == "up")
    return Badge("better", "better") if better else Badge("worse", "worse")
