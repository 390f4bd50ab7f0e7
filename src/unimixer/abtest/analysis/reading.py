"""Read an experiment: checks first, then effects, then the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from unimixer.abtest.analysis.check import Check, failures
from unimixer.abtest.analysis.checks import check_all
from unimixer.abtest.analysis.sequential import LEAST_UNITS, Sequential
from unimixer.abtest.analysis.statistics import Effect, compare, corrected
from unimixer.abtest.analysis.units import DENOMINATOR, NUMERATOR, UnitTable
from unimixer.abtest.analysis.verdict import Verdict, judge
from unimixer.abtest.events import Events, now_us
from unimixer.abtest.specification import Experiment, Metric
from unimixer.errors import UnimixerError

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

SEGMENT_VALUES = 10
"""Most frequent values of a segment that are shown."""


@dataclass(frozen=True)
class Reading:
    """Everything that a reading found; without effects while a check fails."""

    experiment: Experiment
    as_of: int
    units: Mapping[str, int]
    entries: tuple[tuple[str, int, int], ...]
    """New units: arm, day since the start, number."""
    checks: tuple[Check, ...]
    effects: tuple[Effect, ...]
    """Of all units: deciding metrics and guardrails."""
    segments: tuple[Effect, ...]
    """Of the segments that the specification names; they decide nothing."""
    verdict: Verdict

    @property
    def valid(self) -> bool:
        """Whether every check passed."""
        return not failures(self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the reading as plain values."""
        values: dict[str, Any] = {
            "experiment": self.experiment.name,
            "version": self.experiment.version,
            "as_of": datetime.fromtimestamp(self.as_of / 1e6, tz=UTC).isoformat(),
            "valid": self.valid,
            "units": dict(self.units),
            "verdict": asdict(self.verdict),
        }
        values["checks"] = [asdict(check) for check in self.checks]
        values["effects"] = [asdict(effect) for effect in self.effects]
        values["segments"] = [asdict(effect) for effect in self.segments]
        return values


def read_experiment(
    experiment: Experiment, events: Events, *, as_of: int | None = None, now: int | None = None
) -> Reading:
    """Read an experiment from its events.

    The database sums by unit, in one snapshot; rows do not leave it. The interval of a guardrail has one-sided bounds
    at the level alpha, that of every other metric is two-sided; p-values are corrected over all deciding metrics and
    arms.

    Args:
        experiment: the specification that was served.
        events: the database.
        as_of: microseconds since 1970; later events are not read (default: now).
        now: microseconds since 1970 (default: the clock).

    Raises:
        UnimixerError: ``as_of`` lies in the future.
    """
    clock = now_us() if now is None else now
    until = clock if as_of is None else as_of
    if until > clock:
        day = datetime.fromtimestamp(until / 1e6, tz=UTC).date()
        raise UnimixerError(
            f"as of {day}: the day lies in the future; name an earlier day, or leave the day out to read all events "
            "until now"
        )
    with events.snapshot() as database, UnitTable(database, experiment, until) as table:
        checks = check_all(table, clock)
        units, entries = table.units(), tuple(table.entries())
        effects: tuple[Effect, ...] = ()
        segments: tuple[Effect, ...] = ()
        if not failures(checks):
            effects = with_correction(experiment, [e for m in experiment.metrics for e in _effects(table, m, None)])
            segments = tuple(_segments(table))
    verdict = judge(experiment, checks, effects, finished=until >= experiment.end_us, as_of=until)
    return Reading(experiment, until, units, entries, checks, effects, segments, verdict)


def with_correction(experiment: Experiment, effects: list[Effect]) -> tuple[Effect, ...]:
    """Add the corrected p-values of the metrics that decide; those that cannot be compared yet count with p = 1."""
    guardrails = {metric.name for metric in experiment.metrics if metric.guardrail}
    deciding = [effect for effect in effects if effect.metric not in guardrails]
    planned = (len(experiment.metrics) - len(guardrails)) * (len(experiment.weights) - 1)
    values = [effect.p for effect in deciding] + [1.0] * (planned - len(deciding))
    corrected_p = dict(zip(map(id, deciding), corrected(values, experiment.correction), strict=False))
    return tuple(replace(effect, p_corrected=corrected_p.get(id(effect))) for effect in effects)


def _effects(table: UnitTable, metric: Metric, segment: tuple[str, str] | None) -> Iterator[Effect]:
    experiment = table.experiment
    sums: dict[str, Aggregates] = table.sums(metric, segment)
    control = sums.get(experiment.control)
    sequential = None
    if experiment.reading == "sequential":
        sequential = Sequential(experiment.planned_units, experiment.alpha)
    least = LEAST_UNITS if segment is None or sequential is not None else 2
    for arm in experiment.weights:
        if arm == experiment.control or control is None or arm not in sums:
            continue
        if not all(_comparable(part, metric, least) for part in (control, sums[arm])):
            continue
        effect = compare(
            control,
            sums[arm],
            numerator=NUMERATOR,
            denominator=DENOMINATOR if metric.kind == "ratio" else None,
            covariates=list(table.covariates.values()),
            alpha=experiment.alpha,
            one_sided=metric.guardrail,
            sequential=sequential,
            metric=metric.name,
            arm=arm,
        )
        yield replace(effect, segment="" if segment is None else f"{segment[0]}={segment[1]}")


def _comparable(part: Aggregates, metric: Metric, least: int) -> bool:
    """Return whether an arm has units enough, and of a ratio something below the line."""
    return part.count() >= least and (metric.kind != "ratio" or part.mean(DENOMINATOR) > 0)


def _segments(table: UnitTable) -> Iterator[Effect]:
    for segment in table.experiment.segments:
        for value in table.segment_values(segment)[:SEGMENT_VALUES]:
            for metric in table.experiment.metrics:
                yield from _effects(table, metric, (segment, value))
