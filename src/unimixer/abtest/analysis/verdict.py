"""Say in plain words what to do with an experiment, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from unimixer.abtest.analysis.check import Check, failures
from unimixer.abtest.analysis.statistics import Effect
from unimixer.abtest.analysis.units import horizon
from unimixer.abtest.specification import Experiment, Metric

SHIP, DO_NOT_SHIP, KEEP_RUNNING, BROKEN = "ship", "do not ship", "keep running", "broken"
NOT_DECIDABLE = "not decidable"
"""The experiment is over, and there are too few units, or too few have reached the end of a metric's window."""
HOLDS, HARMED, OPEN = "holds", "harmed", "undecided"
_LONGER = "run a longer experiment, or one with more traffic; unimixer abtest plan says how long"


@dataclass(frozen=True)
class Verdict:
    """The decision, its reasons, and what to do next."""

    decision: str
    arm: str | None
    """Arm to ship."""
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]


@dataclass(frozen=True)
class _Finding:
    """What the effects say about one arm."""

    decision: str
    reasons: tuple[str, ...]
    gain: float = 0.0


def judge(
    experiment: Experiment,
    checks: Sequence[Check],
    effects: Sequence[Effect],
    *,
    finished: bool,
    as_of: int | None = None,
) -> Verdict:
    """Decide.

    An arm is shipped if a deciding metric improved, none got worse, and every guardrail holds. It is not shipped if a
    metric got worse, or if the experiment is over without an improvement. It is not decidable if it is over without
    enough units, or before enough of them have reached the end of the window of every metric.

    Args:
        experiment: the specification.
        checks: all checks; while one fails, no effect counts.
        effects: of all units, without segments.
        finished: whether the experiment is over.
        as_of: time of the reading in microseconds since 1970 (default: the end of the experiment).
    """
    failed = failures(checks)
    broken = [check for check in failed if check.breaks]
    steps: tuple[str, ...]
    if broken:
        steps = ("mend the cause", "start again under a new name: events of a broken experiment decide nothing")
        return Verdict(BROKEN, None, tuple(f"{check.name}: {check.sentence}" for check in broken), steps)
    undecided = NOT_DECIDABLE if finished else KEEP_RUNNING
    if failed:
        reasons = tuple(f"{check.name}: {check.sentence}" for check in failed)
        steps = (_LONGER if finished else f"read again on {experiment.end} or when the reason has passed",)
        return Verdict(undecided, None, reasons, steps)
    if not experiment.metrics:
        return Verdict(undecided, None, ("the specification has no metrics",), ("add metrics in a new experiment",))
    arms = [arm for arm in experiment.weights if arm != experiment.control]
    if not arms:
        reason = f"no arm but the control {experiment.control!r} answers, so nothing is compared"
        return Verdict(undecided, None, (reason,), ("start an experiment with an arm that answers",))
    findings = {arm: _finding(experiment, arm, effects, finished) for arm in arms}
    shipped = [arm for arm in arms if findings[arm].decision == SHIP]
    reasons = tuple(f"{arm}: {reason}" for arm in arms for reason in findings[arm].reasons)
    if shipped:
        best = max(shipped, key=lambda arm: findings[arm].gain)
        steps = (f"ship {best} to all units", "keep a holdout for some weeks to see whether the effect lasts")
        return Verdict(SHIP, best, reasons, steps)
    if any(finding.decision == KEEP_RUNNING for finding in findings.values()):
        when = "tomorrow" if experiment.reading == "sequential" else f"on {experiment.end}"
        return Verdict(KEEP_RUNNING, None, reasons, (f"read again {when}; the intervals shrink as units arrive",))
    if any(finding.decision == NOT_DECIDABLE for finding in findings.values()):
        closing = max(_closing(experiment, metric) for metric in experiment.metrics)
        if (experiment.end_us if as_of is None else as_of) < closing:
            steps = (
                f"read again on {_day(closing)}, when the window of the last unit is over; change nothing until then",
            )
        else:
            steps = (_LONGER,)
        return Verdict(NOT_DECIDABLE, None, reasons, steps)
    steps = ("keep the control", "look at the intervals: they say which effects are still possible")
    return Verdict(DO_NOT_SHIP, None, reasons, steps)


def guardrail_state(metric: Metric, effect: Effect) -> str:
    """Return whether a guardrail holds, is harmed, or is undecided.

    Its interval has one-sided bounds. With a margin the loss must be shown to be smaller than it; without one, the
    guardrail holds until a loss is shown.
    """
    best, worst = _ends(metric, effect)
    if metric.margin is not None and worst is not None and worst > -metric.margin:
        return HOLDS
    if (effect.high if metric.direction == "up" else -effect.low) < 0 or (best is not None and best < 0):
        return HARMED
    return HOLDS if metric.margin is None else OPEN


def _ends(metric: Metric, effect: Effect) -> tuple[float | None, float | None]:
    """Return the best and the worst end of the relative interval, positive for an improvement."""
    low, high = effect.relative_low, effect.relative_high
    if low is None or high is None:
        return None, None
    return (high, low) if metric.direction == "up" else (-low, -high)


def _finding(experiment: Experiment, arm: str, effects: Sequence[Effect], finished: bool) -> _Finding:
    metrics = {metric.name: metric for metric in experiment.metrics}
    mine = [effect for effect in effects if effect.arm == arm]
    guarded = {e.metric: guardrail_state(metrics[e.metric], e) for e in mine if metrics[e.metric].guardrail}
    deciding = [effect for effect in mine if not metrics[effect.metric].guardrail]
    signs = {effect.metric: _sign(experiment, metrics[effect.metric], effect) for effect in deciding}
    better, worse = ([e for e in deciding if signs[e.metric] == sign] for sign in (1, -1))
    harmed = [e for e in mine if guarded.get(e.metric) == HARMED]
    undecided = [e for e in mine if guarded.get(e.metric) == OPEN]
    missing = sorted(set(metrics) - {effect.metric for effect in mine})
    gain = max((abs(effect.relative or 0.0) for effect in better), default=0.0)
    reasons = [f"{e.metric} improved by {change(e)}" for e in better]
    reasons += [f"{e.metric} got worse by {change(e)}" for e in worse]
    reasons += [f"guardrail {e.metric} is harmed: {change(e)}" for e in harmed]
    reasons += [
        f"guardrail {e.metric} may still lose more than its margin of {metrics[e.metric].margin:.2%}: {change(e)}"
        for e in undecided
    ]
    for name in missing:
        metric = metrics[name]
        if metric.kind == "ratio" and not horizon(metric):
            reasons.append(f"{name} has no value yet, because an arm has no {metric.denominator!r}")
            continue
        over = f"; the window of the last is over on {_day(_closing(experiment, metric))}"
        reasons.append(
            f"{name} has too few units that are old enough yet{over if finished and horizon(metric) else ''}"
        )
    if worse or harmed:
        return _Finding(DO_NOT_SHIP, tuple(reasons), gain)
    if (better or not deciding) and not undecided and not missing:
        return _Finding(SHIP, tuple([*reasons, "all guardrails hold"] if guarded else reasons), gain)
    if deciding and not better:
        reasons += [f"{e.metric} shows no effect beyond chance: {change(e)}" for e in deciding]
    if not finished:
        return _Finding(KEEP_RUNNING, tuple(reasons), gain)
    return _Finding(NOT_DECIDABLE if missing else DO_NOT_SHIP, tuple(reasons), gain)


def _closing(experiment: Experiment, metric: Metric) -> int:
    """Return the time when a unit that enters last has reached the end of a metric's window."""
    return experiment.end_us + horizon(metric)


def _day(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1e6, tz=UTC):%Y-%m-%d}"


def _sign(experiment: Experiment, metric: Metric, effect: Effect) -> int:
    """Return 1 for an improvement beyond chance, -1 for a loss, 0 for neither."""
    if effect.p_corrected is None or effect.p_corrected >= experiment.alpha:
        return 0
    return 1 if (effect.difference > 0) == (metric.direction == "up") else -1


def change(effect: Effect) -> str:
    """Format an effect with its interval: relative where the control is positive."""
    if effect.relative is None or effect.relative_low is None or effect.relative_high is None:
        return f"{effect.difference:+.4g} ({effect.low:+.4g} to {effect.high:+.4g})"
    return f"{effect.relative:+.2%} ({effect.relative_low:+.2%} to {effect.relative_high:+.2%})"
