"""Write ids in their canonical text with the standard library alone; the feature store writes them the same way."""

from __future__ import annotations

import re
from typing import Any

from unimixer.errors import UnimixerError

_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""White space of Unicode; ``str.strip`` also removes four control characters that are none."""
_WHOLE = re.compile(r"(-?\d+)\.0+")


def canonical_text(value: str | int | float | bool | None) -> str | None:
    """Return the canonical text of an id or of a value of the context: 3, 3.0 and "3.0" are one, true is 1.

    An empty text, NaN and None are missing and give None. Numbers of NumPy count as those of Python.

    Raises:
        UnimixerError: it is neither text nor a number.
    """
    if value is None or value != value:
        return None
    if isinstance(value, str):
        text = value.strip(_SPACE)
        whole = _WHOLE.fullmatch(text)
        return (whole[1] if whole else text) or None
    if not isinstance(value, int | float):
        if not hasattr(value, "item"):
            raise UnimixerError(f"an id is text or a number, found {value!r:.40}; convert it to text")
        value = value.item()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    return str(int(value))


def is_id(value: Any) -> bool:
    """Return whether a value may be an id: text, an integer, or an integer that a float holds exactly."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**53
    return isinstance(value, str | int) and not isinstance(value, bool)
