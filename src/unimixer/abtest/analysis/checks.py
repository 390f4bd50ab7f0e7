"""Check an experiment before any effect is read, in a fixed order; every failure is one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from unimixer.abtest.analysis.sequential import LEAST_UNITS, split_p_value
from unimixer.abtest.analysis.statistics import compare, standardized_difference
from unimixer.abtest.analysis.units import DENOMINATOR, NUMERATOR, UnitTable
from unimixer.abtest.specification import DAY_US, Experiment
from unimixer.settings import parse, read_yaml

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

LEVEL = 0.001
"""Error level of every check, so that a sound experiment rarely fails one."""
CROSSED_SHARE = 0.001
EARLY_SHARE = CLOCK_SHARE = 0.01
CLOCK_TOLERANCE_US = 3_600_000_000
"""Time by which the clock of a client may run ahead: one hour."""
LOST_SHARE = 0.1
"""Smallest relative difference of events an exposure between arms that counts as a loss."""
ORDER_SAMPLE = 500_000
"""Number of outcomes up to which the order of all is checked."""
_STEPS = (1, 7, 31, 127, 509, 2039)
"""Primes; every so many microseconds an outcome is in the sample, whatever the resolution of its clock."""
BOT_LEAST, BOT_TIMES_MEDIAN, BOT_TIMES_TOP, BOT_SHARE = 300, 50, 10, 0.01
"""A unit is no person with more outcomes than each of these: the number, 50 medians or 10 times the 99th percentile
(whichever is less); and the share of all outcomes that such units may have."""
BALANCE = 0.02
"""Standardized difference before the start that never fails."""
SPECIFICATION, SPLIT, ARMS, OUTCOMES, CLOCKS, ORDER, BOTS, BALANCED, LOOK, UNITS = (
    "specification",
    "sample ratio",
    "one arm a unit",
    "outcomes arrive",
    "clocks",
    "exposure before outcome",
    "bots",
    "balance before the start",
    "one look",
    "enough units",
)


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    name: str
    passed: bool
    sentence: str
    breaks: bool = True
    """Whether a failure breaks the experiment; otherwise waiting mends it."""


def check_all(table: UnitTable, now: int) -> tuple[Check, ...]:
    """Run all checks in the order in which they are read.

    Args:
        table: sums of the experiment.
        now: microseconds since 1970.
    """
    return (
        _specification(table),
        _split(table),
        _one_arm(table),
        _outcomes(table),
        _clocks(table, now),
        _order(table),
        _bots(table),
        _balance(table),
        *_waiting(table),
    )


def split_check(experiment: Experiment, units: Mapping[str, int]) -> Check:
    """Compare the units of every arm with the configured split.

    Reading once uses the test of chi squared, sequential reading one that holds at every look.
    """
    from scipy.stats import chisquare

    weights = experiment.weights
    strangers = sorted(set(units) - set(weights))
    if strangers:
        return Check(
            SPLIT,
            False,
            f"{units[strangers[0]]:,} units saw {strangers[0]!r}, which the specification has no arm for; "
            "read with the specification that was served",
        )
    counts = [units.get(arm, 0) for arm in weights]
    shares = [weight / sum(weights.values()) for weight in weights.values()]
    total = sum(counts)
    if not total:
        return Check(SPLIT, False, "no unit was exposed; check that the server logs exposures here", breaks=False)
    if experiment.reading == "sequential":
        p = split_p_value(counts, shares)
    else:
        p = float(chisquare(counts, [share * total for share in shares]).pvalue)
    found = ", ".join(
        f"{arm} {count / total:.2%} of {share:.2%}" for arm, count, share in zip(weights, counts, shares, strict=True)
    )
    if p < LEVEL:
        return Check(
            SPLIT,
            False,
            f"the split of {total:,} units is not the configured one ({found}; p {_p(p)}): units are lost "
            "or added in an arm; find where before reading any effect",
        )
    return Check(SPLIT, True, f"the split of {total:,} units fits the configured one ({found}; p {_p(p)})")


def _split(table: UnitTable) -> Check:
    return split_check(table.experiment, table.units())


def _specification(table: UnitTable) -> Check:
    experiment = table.experiment
    rows = table.query("SELECT version, text FROM specifications WHERE experiment = ?", [experiment.name])
    known = {int(version): _parsed(str(text), experiment.name) for version, text in rows}
    served = [
        int(version)
        for (version,) in table.query(
            "SELECT DISTINCT version FROM exposures WHERE experiment = ? AND time < ? ORDER BY version",
            [experiment.name, table.as_of],
        )
    ]
    compared = {**known, **({} if experiment.version in known else {experiment.version: experiment})}
    if experiment.version in known and _frozen(known[experiment.version]) != _frozen(experiment):
        keys = _differences(known[experiment.version], experiment)
        return Check(
            SPECIFICATION,
            False,
            f"{keys} of version {experiment.version} differs from the version that was served; "
            "read with the registered specification",
        )
    for version in served:
        if version not in compared:
            return Check(
                SPECIFICATION,
                False,
                f"units were exposed under version {version}, which is not registered, so nobody "
                "knows their split; register every version before it is served",
            )
        keys = _differences(compared[version], experiment)
        if keys:
            return Check(
                SPECIFICATION,
                False,
                f"{keys} changed between version {version} and {experiment.version} while units "
                "were exposed, so the arms are no longer comparable; start a new experiment with a new name and salt",
            )
    versions = ", ".join(map(str, served)) or "none yet"
    return Check(SPECIFICATION, True, f"nothing that decides changed while units were exposed (versions {versions})")


_MAY_CHANGE = {"version", "description", "overrides", "traffic", "end"}


def _frozen(experiment: Experiment) -> dict[str, object]:
    return experiment.model_dump(exclude=_MAY_CHANGE)


def _differences(before: Experiment, after: Experiment) -> str:
    old, new = _frozen(before), _frozen(after)
    return " and ".join(key for key in old if old[key] != new[key])


def _parsed(text: str, name: str) -> Experiment:
    where = f"registered specification of {name!r}"
    return parse(Experiment, read_yaml(text, where), where=where)


def _one_arm(table: UnitTable) -> Check:
    crossed = table.crossed()
    total = crossed + sum(table.units().values())
    share = crossed / total if total else 0.0
    if share > CROSSED_SHARE:
        return Check(
            ARMS,
            False,
            f"{crossed:,} of {total:,} units ({share:.2%}) saw several arms, at most {CROSSED_SHARE:.1%} may: "
            "their assignment is not stable; assign by an id that stays",
        )
    return Check(ARMS, True, f"{crossed:,} of {total:,} units saw several arms and are left out")


def _outcomes(table: UnitTable) -> Check:
    """Check that every event of a metric arrives, and in every arm at the same rate an exposure."""
    experiment = table.experiment
    events = {metric.event: f"n{index}" for index, metric in enumerate(experiment.metrics)}
    shown = {m.denominator: f"d{i}" for i, m in enumerate(experiment.metrics) if m.denominator is not None}
    for event, column in (events | shown).items():
        if not any(part.mean(NUMERATOR) for part in table.outcome_sums(column).values()) and table.units():
            return Check(
                OUTCOMES,
                False,
                f"no unit has an outcome {event!r} after its exposure; check that outcomes reach this "
                "database and that the name of the event is right",
                breaks=table.as_of >= experiment.start_us + DAY_US,
            )
    gap = _gap(table)
    if gap is not None:
        return Check(OUTCOMES, False, gap)
    for event, column in shown.items() or [("any event", "outcomes")]:
        lost = _lost(
            table.outcome_sums(column), experiment.control, str(event), LOST_SHARE if shown else 1.5 * LOST_SHARE
        )
        if lost is not None:
            return Check(OUTCOMES, False, lost)
    return Check(OUTCOMES, True, "outcomes arrive from every arm on every day and at like rates an exposure")


def _lost(sums: Mapping[str, Aggregates], control: str, event: str, limit: float) -> str | None:
    for arm, part in sums.items():
        base = sums.get(control)
        if arm == control or base is None or min(base.count(), part.count()) < LEAST_UNITS:
            continue
        effect = compare(base, part, numerator=NUMERATOR, denominator=DENOMINATOR, alpha=LEVEL)
        if effect.p < LEVEL and (effect.relative is None or abs(effect.relative) > limit):
            worse = arm if effect.difference < 0 else control
            return (
                f"{arm} has {effect.treatment:.3f} outcomes ({event}) an exposure and {control} {effect.control:.3f}: "
                f"outcomes of {worse} are lost on their way; compare the logs of its clients with the database"
            )
    return None


def _gap(table: UnitTable) -> str | None:
    """Return the sentence for a day on which an arm has exposures and no outcome while the others have some."""
    experiment = table.experiment
    start = experiment.start_us
    day = f"(e.time - {start}) / {DAY_US}"
    exposures = table.query(
        f"SELECT u.arm, {day}, COUNT(*) FROM exposures e JOIN abtest_units u ON u.unit = e.unit WHERE e.experiment = ? "
        f"AND e.shadow = 0 AND e.time >= u.first AND e.time < ? GROUP BY u.arm, {day}",
        [experiment.name, min(table.as_of, experiment.end_us)],
    )
    day = f"(o.time - {start}) / {DAY_US}"
    outcomes = table.query(
        f"SELECT u.arm, {day}, COUNT(*) FROM outcomes o JOIN abtest_units u ON u.unit = o.unit WHERE o.time >= u.first "
        f"AND o.time < ? GROUP BY u.arm, {day}",
        [min(table.as_of, experiment.end_us)],
    )
    found = {(arm, int(number)): int(count) for arm, number, count in outcomes}
    for arm, number, count in sorted(exposures, key=lambda row: (row[1], row[0])):
        others = sum(n for (other, at), n in found.items() if at == int(number) and other != arm)
        if count >= LEAST_UNITS and others >= LEAST_UNITS and not found.get((arm, int(number))):
            return (
                f"{arm} has {count:,} exposures on {_day(start + int(number) * DAY_US)} and no outcome, while other "
                "arms have some: its outcomes do not arrive; load them, or start anew"
            )
    return None


def _clocks(table: UnitTable, now: int) -> Check:
    experiment = table.experiment
    ahead = table.query(
        "SELECT COUNT(*) FROM exposures WHERE experiment = ? AND time > ?", [experiment.name, now + CLOCK_TOLERANCE_US]
    )[0][0]
    if ahead:
        return Check(
            CLOCKS,
            False,
            f"{ahead:,} exposures lie in the future (after {_day(now)}): the clock of a server is wrong; "
            "set it and start anew",
        )
    total, late = table.query(
        f"SELECT COUNT(*), COALESCE(SUM(CASE WHEN o.time > o.received + {CLOCK_TOLERANCE_US} THEN 1 ELSE 0 END), 0) "
        "FROM outcomes o JOIN abtest_units u ON u.unit = o.unit"
    )[0]
    if total and late / total > CLOCK_SHARE:
        return Check(
            CLOCKS,
            False,
            f"{late:,} of {total:,} outcomes ({late / total:.1%}) are dated over an hour after they were "
            "received: clocks of clients run ahead, and days are wrong; date outcomes on the server",
        )
    return Check(CLOCKS, True, f"{late:,} of {total:,} outcomes are dated over an hour after they were received")


def _order(table: UnitTable) -> Check:
    """Check a sample of the outcomes that name their request: every row of all would be looked up by its key."""
    rows = table.query("SELECT SUM(outcomes) FROM abtest_values")[0][0] or 0
    step = next((prime for prime in _STEPS if rows / prime <= ORDER_SAMPLE), _STEPS[-1])
    total, early = table.query(  # a cross join keeps SQLite from scanning outcomes for every exposure
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN o.time < e.time THEN 1 ELSE 0 END), 0) FROM outcomes o CROSS JOIN "
        f"exposures e WHERE o.request_id IS NOT NULL AND o.time / {step} * {step} = o.time AND o.time >= ? AND "
        "e.experiment = ? AND e.request_id = o.request_id AND e.shadow = 0 AND e.time < ?",
        [table.experiment.start_us - DAY_US, table.experiment.name, table.as_of],
    )[0]
    if total and early / total > EARLY_SHARE:
        return Check(
            ORDER,
            False,
            f"{early:,} of {total:,} outcomes ({early / total:.1%}) are dated before the exposure that "
            "they answer, and would not count; date both by one clock",
        )
    return Check(ORDER, True, f"{early:,} of {total:,} outcomes with a request are dated before its exposure")


def _bots(table: UnitTable) -> Check:
    active = table.query("SELECT COUNT(*), SUM(outcomes) FROM abtest_values WHERE outcomes > 0")[0]
    count, total = int(active[0]), float(active[1] or 0)
    if not count:
        return Check(BOTS, True, "no unit has more outcomes than a person can cause")
    median, top = (
        table.query("SELECT outcomes FROM abtest_values WHERE outcomes > 0 ORDER BY outcomes LIMIT 1 OFFSET ?", [at])[
            0
        ][0]
        for at in (count // 2, count * 99 // 100)
    )
    limit = max(BOT_LEAST, min(BOT_TIMES_MEDIAN * median, BOT_TIMES_TOP * top))
    units, events = table.query(
        "SELECT COUNT(*), COALESCE(SUM(outcomes), 0) FROM abtest_values WHERE outcomes > ?", [limit]
    )[0]
    if events / total > BOT_SHARE:
        return Check(
            BOTS,
            False,
            f"{units:,} units have over {limit:,.0f} outcomes each, {events / total:.1%} of all: bots decide "
            "the result; filter them before exposures and outcomes are logged",
        )
    return Check(BOTS, True, f"{units:,} units have over {limit:,.0f} outcomes each, {events / total:.1%} of all")


def _balance(table: UnitTable) -> Check:
    sums, control = table.covariate_sums(), table.experiment.control
    arms = [arm for arm in sums if arm != control and control in sums]
    largest = ("", "", 0.0)
    for arm in arms:
        for name, column in table.covariates.items():
            difference = standardized_difference(sums[control], sums[arm], column)
            limit = balance_limit(sums[control].count(), sums[arm].count(), len(arms) * len(sums))
            if abs(difference) > limit:
                return Check(
                    BALANCED,
                    False,
                    f"{arm} and {control} differed in {name} before the start by {difference:+.3f} "
                    f"standard deviations, beyond {limit:.3f}: the assignment is not random; find why before reading",
                )
            largest = max(largest, (name, arm, difference), key=lambda one: abs(one[2]))
    if not arms:
        return Check(BALANCED, True, "the specification has no covariates to compare before the start")
    return Check(BALANCED, True, f"the largest difference before the start is {largest[2]:+.3f} standard deviations")


def balance_limit(control: int, treatment: int, comparisons: int) -> float:
    """Return the standardized mean difference that chance leaves in one of a thousand sound experiments."""
    from scipy.stats import norm

    chance = float(norm.isf(LEVEL / 2 / max(comparisons, 1))) * math.sqrt(1 / control + 1 / treatment)
    return max(BALANCE, chance)


def _waiting(table: UnitTable) -> Iterator[Check]:
    experiment = table.experiment
    if experiment.reading == "fixed":
        over = table.as_of >= experiment.end_us
        yield Check(
            LOOK,
            over,
            f"the experiment ended on {experiment.end} and is read once"
            if over
            else f"fixed intervals hold for one look at the end, {experiment.end}, and not before: wait, or plan the "
            "next experiment with reading: sequential",
            breaks=False,
        )
    else:
        yield Check(LOOK, True, "sequential intervals hold at every look")
    units = table.units()
    least = min((units.get(arm, 0) for arm in experiment.weights), default=0)
    enough = least >= LEAST_UNITS
    words = f"the smallest arm has {least:,} units"
    yield Check(
        UNITS, enough, words if enough else f"{words}, expected at least {LEAST_UNITS}: wait for more", breaks=False
    )


def failures(checks: Sequence[Check]) -> list[Check]:
    """List the checks that failed."""
    return [check for check in checks if not check.passed]


def _day(time: int) -> str:
    return datetime.fromtimestamp(time / 1e6, tz=UTC).date().isoformat()


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"
