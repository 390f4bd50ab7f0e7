"""Assign units to arms: a hash of the unit and the salt, the same in every process and on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from unimixer.abtest.canonical import canonical_text
from unimixer.abtest.specification import BUCKETS, WHOLE, Experiment

Reason = Literal[
    "assigned", "override", "no id", "not started", "ended", "targeting", "layer", "holdout", "traffic", "stopped"
]


class Assignment(NamedTuple):
    """The arm of a unit; without one, the unit gets the control and takes no part."""

    arm: str | None
    reason: Reason
    propensity: float
    """Probability of the arm for a unit that takes part; 0 without an arm."""

    @property
    def exposed(self) -> bool:
        """Whether the unit counts in the experiment; one with an override does not."""
        return self.reason == "assigned"


def assign(
    experiment: Experiment,
    unit: str | float | None,
    context: Mapping[str, Any] | None = None,
    *,
    time: int | None = None,
) -> Assignment:
    """Return the arm of a unit.

    Whether a unit takes part and which arm it gets are independent parts of one hash. So a higher ``traffic`` adds
    units and moves none.

    Args:
        experiment: the specification.
        unit: the id.
        context: values that targeting compares; a missing value does not match.
        time: microseconds since 1970, compared with start and end; None compares nothing.
    """
    text = canonical_text(unit)
    if text is None:
        return Assignment(None, "no id", 0.0)
    override = experiment.overrides.get(text)
    if override is not None:
        return Assignment(override, "override", 1.0)
    reason = _outside(experiment, context or {}, time)
    if reason is not None:
        return Assignment(None, reason, 0.0)
    part, arm_part, held = _hashes(experiment.salt, text, b"experiment")
    if experiment.layer is not None:
        bucket, held, _ = _hashes(experiment.layer.name, text, b"layer")
        first, end = experiment.layer.buckets
        if not first <= bucket * BUCKETS // WHOLE < end:
            return Assignment(None, "layer", 0.0)
    if held < int(experiment.holdout * WHOLE):
        return Assignment(None, "holdout", 0.0)
    if part >= int(experiment.traffic * WHOLE):
        return Assignment(None, "traffic", 0.0)
    arm, share = next((name, share) for end, name, share in experiment.cut_points if arm_part < end)
    return Assignment(arm, "assigned", share)


def _outside(experiment: Experiment, context: Mapping[str, Any], time: int | None) -> Reason | None:
    if time is not None and time < experiment.start_us:
        return "not started"
    if time is not None and time >= experiment.end_us:
        return "ended"
    for column, values in experiment.targeting.items():
        value = context.get(column)
        if isinstance(value, list | dict) or canonical_text(value) not in values:
            return "targeting"
    return None


def _hashes(salt: str, unit: str, purpose: bytes) -> tuple[int, int, int]:
    """Return three independent numbers of 64 bits; ``purpose`` keeps a layer and an experiment of one name apart."""
    key = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    digest = blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=24, key=key, person=purpose).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big"), int.from_bytes(digest[16:], "big")
