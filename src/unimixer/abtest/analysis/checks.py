"""Check an experiment before any effect is read, in a fixed order; every failure is one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from unimixer.abtest.analysis.check import (
    ARMS,
    BALANCED,
    LEVEL,
    LOOK,
    SEGMENTS,
    SPECIFICATION,
    SPLIT,
    UNITS,
    Check,
    exceeds,
)
from unimixer.abtest.analysis.event_checks import bots_check, clocks_check, order_check, outcomes_check
from unimixer.abtest.analysis.sequential import LEAST_UNITS, split_p_value
from unimixer.abtest.analysis.statistics import standardized_difference
from unimixer.abtest.analysis.units import UnitTable
from unimixer.abtest.changes import FREE
from unimixer.abtest.specification import Experiment
from unimixer.settings import parse, read_yaml

CROSSED_SHARE = 0.001
BALANCE = 0.02
"""Standardized difference before the start that never fails."""


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
        outcomes_check(table),
        clocks_check(table, now),
        order_check(table),
        bots_check(table),
        _balance(table),
        *_segments(table),
        *_waiting(table),
    )


def split_check(experiment: Experiment, units: Mapping[str, int]) -> Check:
    """Compare the units of every arm with the configured split.

    Reading once uses :func:`fixed_split_p_value`, sequential reading a test that holds at every look.
    """
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
    p = split_p_value(counts, shares) if experiment.reading == "sequential" else fixed_split_p_value(counts, shares)
    split = ", ".join(
        f"{arm} {count / total:.2%} of {share:.2%}" for arm, count, share in zip(weights, counts, shares, strict=True)
    )
    if p < LEVEL:
        return Check(
            SPLIT,
            False,
            f"the split of {total:,} units is not the configured one ({split}; p {_p(p)}): units are lost "
            "or added in an arm; find where before reading any effect",
        )
    return Check(SPLIT, True, f"the split of {total:,} units fits the configured one ({split}; p {_p(p)})")


def fixed_split_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Test a split of units against the configured shares at one look, exactly for any number of units.

    Every arm has a binomial test; with more than two arms the least p is corrected for their number (Bonferroni).

    Args:
        counts: units of every arm.
        shares: configured shares of the arms; they sum to 1.

    Example:
        >>> fixed_split_p_value([99, 1], [0.5, 0.5]) < 1e-20
        True
        >>> round(fixed_split_p_value([0, 1], [0.99, 0.01]), 3)  # one unit proves nothing
        0.01
    """
    from scipy.stats import binomtest

    least = min(binomtest(n, sum(counts), min(share, 1.0)).pvalue for n, share in zip(counts, shares, strict=True))
    return min(1.0, float(least) * (len(counts) if len(counts) > 2 else 1))


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
    keys = _differences(known.get(experiment.version, experiment), experiment, free=("description",))
    if keys:
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
        if compared[version].end > experiment.end:
            return Check(
                SPECIFICATION,
                False,
                f"version {version} was served and ends on {compared[version].end}, but version "
                f"{experiment.version} ends on {experiment.end}, which chooses the end after the first results; "
                "read with the registered specification",
            )
        keys = _differences(compared[version], experiment, free=FREE)
        if keys:
            return Check(
                SPECIFICATION,
                False,
                f"{keys} changed between version {version} and {experiment.version} while units "
                "were exposed, so the arms are no longer comparable; start a new experiment with a new name and salt",
            )
    versions = ", ".join(map(str, served)) or "none yet"
    return Check(SPECIFICATION, True, f"nothing that decides changed while units were exposed (versions {versions})")


def _differences(before: Experiment, after: Experiment, *, free: Sequence[str]) -> str:
    """Name the keys whose values differ, but for those that may."""
    old, new = (one.model_dump(exclude=set(free)) for one in (before, after))
    return " and ".join(key for key in old if old[key] != new[key])


def _parsed(text: str, name: str) -> Experiment:
    where = f"registered specification of {name!r}"
    return parse(Experiment, read_yaml(text, where), where=where)


def _one_arm(table: UnitTable) -> Check:
    crossed = table.crossed()
    total = crossed + sum(table.units().values())
    share = crossed / total if total else 0.0
    if exceeds(crossed, total, CROSSED_SHARE):
        return Check(
            ARMS,
            False,
            f"{crossed:,} of {total:,} units ({share:.2%}) saw several arms, at most {CROSSED_SHARE:.1%} may: "
            "their assignment is not stable; assign by an id that stays",
        )
    return Check(ARMS, True, f"{crossed:,} of {total:,} units saw several arms and are left out")


def _balance(table: UnitTable) -> Check:
    sums, control = table.covariate_sums(), table.experiment.control
    arms = [arm for arm in sums if arm != control and control in sums]
    largest = ("", "", 0.0)
    for arm in arms:
        for name, column in table.covariates.items():
            difference = standardized_difference(sums[control], sums[arm], column)
            limit = balance_limit(sums[control].count(), sums[arm].count(), len(arms) * len(table.covariates))
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
    summary = f"the largest difference before the start is {largest[2]:+.3f} standard deviations"
    flat = [name for name, column in table.covariates.items() if not any(part.var(column) for part in sums.values())]
    if flat:
        summary += f"; no values, or equal ones, are loaded for {' and '.join(flat)}, so no interval becomes narrower"
    return Check(BALANCED, True, summary)


def balance_limit(control: int, treatment: int, comparisons: int) -> float:
    """Return the standardized mean difference that chance leaves in one of a thousand sound experiments."""
    from scipy.stats import norm

    chance = float(norm.isf(LEVEL / 2 / max(comparisons, 1))) * math.sqrt(1 / control + 1 / treatment)
    return max(BALANCE, chance)


def _segments(table: UnitTable) -> Iterator[Check]:
    """Name the segments that no unit has a value of; they decide nothing, so the check passes."""
    named = table.experiment.segments
    if not named or not table.units():
        return
    empty = [segment for segment in named if not table.segment_values(segment)]
    without = f"no context of an exposure holds {' or '.join(map(repr, empty))}, so no effects are shown for it; "
    way_out = "send the column in the context of the calls, or correct its name in a new experiment"
    yield Check(SEGMENTS, True, without + way_out if empty else "contexts of exposures hold every segment")


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
    if not enough:
        wait = "" if table.as_of >= experiment.end_us else ": wait for more"
        words += f", expected at least {LEAST_UNITS}{wait}"
    yield Check(UNITS, enough, words, breaks=False)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"
