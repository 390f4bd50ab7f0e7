"""The form of a written time: which directives of strptime are understood, and a zone that stands in the format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

EPOCH_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Units of a time that is a number, in nanoseconds."""
ISO = "iso"
"""ISO 8601: a date, or a date and a time, with or without fraction and zone."""
FORMS = "s, ms, us, ns, iso, or a strptime format such as %Y-%m-%d %H:%M:%S"

_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2, "j": 3, "3f": 3, "6f": 6, "9f": 9, "%": 1}
_WORDS = ("b", "B", "a", "A", "p", "z", "G", "V", "u", ".f", ".3f", ".6f", ".9f")
_SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y"}
_DIRECTIVE = re.compile(r"%(\.?[369]?f|[^.369]|.)")
_ZONE = re.compile(r"%(?:[HMSTRp]|\.?[369]?f)\s?(Z|UTC|GMT|[+-]\d\d:?\d\d)$")
"""A zone that is written out behind the time of day."""


@dataclass(frozen=True)
class TimeFormat:
    """A strptime format as the parser takes it.

    Args:
        pattern: directives of the parser.
        own_zone: every text has a zone of its own.
        offset: minutes east of UTC where the format has a zone written out, such as Z.
        width: characters of a text where all have the same number, else None.
    """

    pattern: str
    own_zone: bool
    offset: int | None
    width: int | None


@cache
def read_format(form: str) -> TimeFormat:
    """Understand a strptime format, or raise ``ValueError`` with the directive that is not understood."""
    zone = _ZONE.search(form)
    pattern = re.sub(r"%([FTRD])", lambda found: _SHORT[found[1]], form).replace(".%f", "%.f")
    found = _DIRECTIVE.findall(pattern)
    if not found:
        raise ValueError(f"time_format={form!r} is not a form of time; use {FORMS}")
    for directive in found:
        if directive == "f":
            raise ValueError(
                f"time_format={form!r}: %f stands after a point only; write %3f, %6f or %9f for its digits"
            )
        if directive not in _WIDTHS and directive not in _WORDS:
            raise ValueError(f"time_format={form!r}: the directive %{directive} is not understood; use {FORMS}")
    if not {"Y", "y", "G"} & set(found):
        raise ValueError(f"time_format={form!r} has no year, so it tells no time")
    if ("I" in found) != ("p" in found):
        raise ValueError(f"time_format={form!r}: %I and %p go together; %H is the hour of a whole day")
    fixed = all(directive in _WIDTHS for directive in found)
    literal = len(_DIRECTIVE.sub("", pattern))
    return TimeFormat(
        pattern,
        own_zone="z" in found,
        offset=_minutes(zone[1]) if zone else None,
        width=literal + sum(_WIDTHS[directive] for directive in found) if fixed else None,
    )


def check_form(form: str) -> None:
    """Raise ``ValueError`` for what is no form of a time."""
    if form not in EPOCH_UNITS and form != ISO:
        read_format(form)


def _minutes(zone: str) -> int:
    if zone in ("Z", "UTC", "GMT"):
        return 0
    digits = zone[1:].replace(":", "")
    return (-1 if zone[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))
