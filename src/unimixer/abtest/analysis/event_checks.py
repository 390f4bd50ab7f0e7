"""Check the events of an experiment: outcomes arrive, in time and in order, and from people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from unimixer.abtest.analysis.check import BOTS, CLOCKS, LEVEL, ORDER, OUTCOMES, Check, exceeds
from unimixer.abtest.analysis.sequential import LEAST_UNITS
from unimixer.abtest.analysis.statistics import compare
from unimixer.abtest.analysis.units import DENOMINATOR, NUMERATOR, UnitTable
from unimixer.abtest.specification import DAY_US

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates

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


def outcomes_check(table: UnitTable) -> Check:
    """Check that every event of a metric arrives, and in every arm at the same rate an exposure."""
    experiment = table.experiment
    if not table.units():
        return Check(OUTCOMES, True, "no unit was exposed, so that no outcome is expected")
    shown = {m.denominator: f"d{i}" for i, m in enumerate(experiment.metrics) if m.denominator is not None}
    arrived = _arrived(table)
    for event in [*(metric.event for metric in experiment.metrics), *shown]:
        if not any(name == event for _, _, name in arrived):
            return Check(
                OUTCOMES,
                False,
                f"no unit has an outcome {event!r} after its exposure; check that outcomes reach this "
                "database and that the name of the event is right",
                breaks=table.as_of >= experiment.start_us + DAY_US and sum(table.units().values()) >= LEAST_UNITS,
            )
    gap = _gap(table, arrived)
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


def _arrived(table: UnitTable) -> dict[tuple[str, int, str], int]:
    """Count the outcomes by arm, day since the start and event."""
    day = f"(o.time - {table.experiment.start_us}) / {DAY_US}"
    rows = table.query(
        f"SELECT u.arm, {day}, o.event, COUNT(*) FROM outcomes o JOIN abtest_units u ON u.unit = o.unit WHERE "
        f"o.time >= u.first AND o.time < ? GROUP BY u.arm, {day}, o.event",
        [table.as_of],
    )
    return {(str(arm), int(number), str(event)): int(count) for arm, number, event, count in rows}


def _gap(table: UnitTable, arrived: Mapping[tuple[str, int, str], int]) -> str | None:
    """Return the sentence for a day on which an arm has exposures and no outcome while the others have some."""
    start = table.experiment.start_us
    day = f"(e.time - {start}) / {DAY_US}"
    exposures = table.query(
        f"SELECT u.arm, {day}, COUNT(*) FROM exposures e JOIN abtest_units u ON u.unit = e.unit WHERE e.experiment = ? "
        f"AND e.shadow = 0 AND e.time >= u.first AND e.time < ? GROUP BY u.arm, {day}",
        [table.experiment.name, min(table.as_of, table.experiment.end_us)],
    )
    for arm, number, count in sorted(exposures, key=lambda row: (row[1], row[0])):
        by_arm = Counter[bool]()
        for (other, at, _), outcomes in arrived.items():
            by_arm[other == arm] += outcomes * (at == number)
        if count >= LEAST_UNITS and by_arm[False] >= LEAST_UNITS and not by_arm[True]:
            return (
                f"{arm} has {count:,} exposures on {_day(start + number * DAY_US)} and no outcome, while other "
                "arms have some: its outcomes do not arrive; load them, or start anew"
            )
    return None


def clocks_check(table: UnitTable, now: int) -> Check:
    """Check that no server and few clients date events in the future."""
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
    if exceeds(late, total, CLOCK_SHARE):
        return Check(
            CLOCKS,
            False,
            f"{late:,} of {total:,} outcomes ({late / total:.1%}) are dated over an hour after they were "
            "received: clocks of clients run ahead, and days are wrong; date outcomes on the server",
        )
    return Check(CLOCKS, True, f"{late:,} of {total:,} outcomes are dated over an hour after they were received")


def order_check(table: UnitTable) -> Check:
    """Check a sample of the outcomes that name their request: every row of all would be looked up by its key."""
    rows = table.query("SELECT SUM(outcomes) FROM abtest_values")[0][0] or 0
    step = next((prime for prime in _STEPS if rows / prime <= ORDER_SAMPLE), _STEPS[-1])
    total, early = table.query(  # a cross join keeps SQLite from scanning outcomes for every exposure
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN o.time < e.time THEN 1 ELSE 0 END), 0) FROM outcomes o CROSS JOIN "
        f"exposures e WHERE o.request_id IS NOT NULL AND o.time / {step} * {step} = o.time AND o.time >= ? AND "
        "e.experiment = ? AND e.request_id = o.request_id AND e.shadow = 0 AND e.time < ?",
        [table.experiment.start_us - DAY_US, table.experiment.name, table.as_of],
    )[0]
    if exceeds(early, total, EARLY_SHARE):
        return Check(
            ORDER,
            False,
            f"{early:,} of {total:,} outcomes ({early / total:.1%}) are dated before the exposure that "
            "they answer, and would not count; date both by one clock",
        )
    return Check(ORDER, True, f"{early:,} of {total:,} outcomes with a request are dated before its exposure")


def bots_check(table: UnitTable) -> Check:
    """Check that units with more outcomes than a person can cause do not decide."""
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


def _day(time: int) -> str:
    return datetime.fromtimestamp(time / 1e6, tz=UTC).date().isoformat()
