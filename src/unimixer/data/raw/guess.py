"""Guess from a sample of a log which columns are keys, times and labels, and which describe users or items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from unimixer.data.raw.profile import Column

KEY_NAMES = {
    "user": r"(user|uid|member|customer|viewer|visitor|account|profile)(_?(id|key|no))?",
    "item": r"(item|iid|video|vid|movie|film|ad|creative|product|goods|sku|note|doc|article|news|song|track|photo|book"
    r"|post)(_?(id|key|no))?",
}
TIME_NAMES = r"time|stamp|^ts$|_ts$|date|day|hour|_at$|_dt$"
LABEL_NAMES = (
    r"^(label|target|y)$",
    r"click",
    r"conver|purchas|buy|order",
    r"like|long_view|finish|watched",
    r"^is_|^has_",
)
"""Likely labels, the likeliest first."""
RATING_NAMES = r"rating|stars|score"
OUTCOME_NAMES = (
    r"^is_|^has_|^(label|target|y)$|click|conver|purchas|buy|order|like|follow|comment|forward|share|hate|long_view|finish"
    r"|complete|watch|play_?time|stay|dwell|reward|revenue|rating|enter$|favou?rite|ctr|cvr"
)


@dataclass(frozen=True)
class Key:
    """The column of a key, or the reason that there is none."""

    column: Column | None
    reason: str = "no column was found by its name"
    others: tuple[str, ...] = ()
    """Columns that would fit too."""


def guess_keys(columns: Sequence[Column]) -> dict[str, Key]:
    """Guess the columns of user, item and time."""
    return {role: _key(columns, names) for role, names in KEY_NAMES.items()} | {"time": _time(columns)}


def guess_labels(columns: Sequence[Column], keys: Sequence[str]) -> list[Column]:
    """Return the columns that may be labels, the likeliest first."""
    free = [c for c in columns if c.name not in keys and not c.missing]
    labels = [c for p in LABEL_NAMES for c in free if re.search(p, c.name, re.IGNORECASE) and c.is_binary]
    labels += [c for c in free if is_rating(c)]
    return list({c.name: c for c in labels or [c for c in free if c.is_binary]}.values())


def missing_label(columns: Sequence[Column]) -> str:
    """Say what a label needs, and which column of two other values, such as yes and no, could become one."""
    need = "none holds 0 and 1, or true and false, without gaps, and none is a rating by its name and values"
    pairs = [c for c in columns if c.kind in ("integer", "number", "text") and c.unique == 2 and not c.is_binary]
    if not pairs:
        return f"{need}; add one, such as 'click'"
    best = max(pairs, key=lambda c: re.search(OUTCOME_NAMES, c.name, re.IGNORECASE) is not None)
    low, high = (repr(value) for value in best.values.unique().sort())
    return f"{need}; {best.name!r} holds {low} and {high}: write its outcome as 1 and the other value as 0"


def is_rating(column: Column) -> bool:
    """Return whether a column holds ratings."""
    named = re.search(RATING_NAMES, column.name, re.IGNORECASE) is not None
    return named and column.kind in ("integer", "number") and 2 < column.unique <= 20


def guess_domains(columns: Sequence[Column], keys: dict[str, Key]) -> dict[str, str]:
    """Guess the domain of columns: one with a single value for every repeated user (or item) belongs to it."""
    domains: dict[str, str] = {}
    frame = pl.DataFrame([c.raw for c in columns if c.kind not in ("list", "other")])
    for role in ("item", "user"):
        key = keys[role].column
        if key is None:
            continue
        plain = [name for name in frame.columns if name != key.name]
        groups = frame.group_by(key.name).agg(pl.col(plain).n_unique(), pl.len().alias("\0rows"))
        groups = groups.filter(pl.col("\0rows") > 1)
        domains |= {name: role for name in plain if groups.height >= 20 and (groups.get_column(name) == 1).all()}
        domains[key.name] = role
    return domains


def _key(columns: Sequence[Column], names: str) -> Key:
    named = [c for c in columns if re.fullmatch(names, c.name, re.IGNORECASE)]
    fitting = [c for c in named if c.kind in ("integer", "text") and c.unique > 1]
    return _choose(named, fitting, "one value only" if named and named[0].kind in ("integer", "text") else None)


def _time(columns: Sequence[Column]) -> Key:
    named = [c for c in columns if re.search(TIME_NAMES, c.name, re.IGNORECASE)]
    fitting = [c for c in named if c.time and not c.missing]
    # a calendar is a time under any name; an integer is one by its name only
    fitting = fitting or [c for c in columns if c.time and c.kind in ("time", "text") and not c.missing]
    why = None
    if named:
        why = f"{named[0].missing:.1%} missing" if named[0].time else "no form of a time that is known"
    return _choose(named, fitting, why)


def _choose(named: Sequence[Column], fitting: Sequence[Column], why: str | None) -> Key:
    best = max(fitting, key=lambda c: c.unique, default=None)
    if best is not None:
        return Key(best, others=tuple(c.name for c in fitting if c is not best))
    if not named:
        return Key(None)
    return Key(None, f"the name of {named[0].name!r} fits, the values do not: {why or _type(named[0])}")


def _type(column: Column) -> str:
    return "no values" if not len(column.values) else f"type {column.raw.dtype}"
