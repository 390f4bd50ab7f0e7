"""Refuse a change of a specification that spoils a running experiment."""

from __future__ import annotations

from datetime import UTC, datetime

from unimixer.abtest.specification import Experiment
from unimixer.errors import UnimixerError

FREE = ("version", "description", "overrides", "traffic", "end")
"""Keys that may change under way; traffic and end in one direction only."""
_WHY = {
    "salt": "would assign every unit anew",
    "unit": "would assign other units",
    "arms": "would move units between arms or change what an arm shows",
    "control": "would compare with another arm",
    "holdout": "would move units into or out of the holdout",
    "layer": "would move units into or out of the experiment",
    "targeting": "would change who takes part",
    "start": "would change which events count",
    "metrics": "would choose metrics after the first results",
    "segments": "would choose segments after the first results",
    "covariates": "would choose covariates after the first results",
    "alpha": "would choose the error rate after the first results",
    "correction": "would choose the correction after the first results",
    "planned_units": "would tune the intervals after the first results",
    "reading": "would choose the kind of reading after the first results",
}


def check_change(old: Experiment, new: Experiment, *, now: int) -> None:
    """Check that ``new`` may replace ``old``.

    Before the start everything may change. A running experiment may gain traffic, end later, and change its
    overrides and its description. Every change needs a higher version.

    Args:
        old: the registered specification.
        new: of the same name.
        now: microseconds since 1970.

    Raises:
        UnimixerError: the change would spoil the experiment.
    """
    where = f"experiment {new.name!r}"
    if new == old:
        return
    if new.version <= old.version:
        raise UnimixerError(
            f"{where}: version {new.version} differs from the registered version {old.version}; give the change "
            f"version {old.version + 1}, or take the registered specification"
        )
    if now >= old.end_us:
        raise UnimixerError(f"{where}: it ended on {old.end}, so nothing may change; give a new experiment a new name")
    if now >= old.start_us:
        _check_running(old, new, where)
    today = datetime.fromtimestamp(now // 1_000_000, tz=UTC).date()
    if new.end_us <= now:
        raise UnimixerError(f"{where}: end={new.end} is in the past; choose a day after {today}, or stop it")
    if now < old.start_us and new.start < today:
        raise UnimixerError(f"{where}: start={new.start} is in the past; choose {today} or a later day")


def _check_running(old: Experiment, new: Experiment, where: str) -> None:
    way_out = "keep it, or give a new experiment a new name and salt"
    for key in Experiment.model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if key not in FREE and before != after:
            raise UnimixerError(f"{where}: {key} changed while it runs, which {_WHY[key]}; {way_out}")
    if new.traffic < old.traffic:
        raise UnimixerError(
            f"{where}: traffic={new.traffic:g} is below {old.traffic:g} while it runs, which would drop units that "
            "were exposed; keep it, or stop the experiment"
        )
    if new.end < old.end:
        raise UnimixerError(
            f"{where}: end={new.end} is before {old.end} while it runs, which would choose the end after the first "
            "results; keep it, or stop the experiment"
        )
