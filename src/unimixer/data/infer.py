"""A first schema for own files: guesses from a sample, each with its evidence in a comment, to read and correct."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import yaml

from unimixer.data.adapters.own import find_tables
from unimixer.data.profile import Column, profile
from unimixer.data.readers import read_chunks
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.settings import parse, read_yaml

SAMPLE_ROWS = 200_000
MANY = 1000
"""More values than this make a vocabulary that drops what was seen once."""
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
MEASURE_NAMES = (
    r"num|count|cnt|price|amount|(^|_)age$|duration|size|width|height|length|days|hours|minutes|seconds|rate|ratio|total"
    r"|avg|sum|dist|_ms$|_s$|^I\d+$"
)
CODE_NAMES = r"(^|_)(id|code|key|hash|zip|uuid|type|category|cat|tag|level|feat\d*)$|^C\d+$|onehot"


def infer_schema(path: Path) -> str:
    """Write the text of a schema for a file of impressions.

    Every guess stands with its evidence (cardinality, missing share, examples) in a comment. Columns whose names look
    like outcomes of the impression are commented out of the features: an outcome is known too late to be one.

    Args:
        path: a Parquet or CSV file, or a folder that ``open_raw`` reads with an own schema (its first file is read).

    Returns:
        YAML that ``load_schema`` reads.

    Raises:
        UnimixerError: the file cannot be read, or no column can be a label.
    """
    file = find_tables(path)[0][0]
    frame = _sample(file)
    columns = [profile(frame.get_column(name)) for name in frame.columns]
    keys = {role: _key(columns, names) for role, names in KEY_NAMES.items()} | {"time": _time(columns)}
    labels = _labels(columns, [column.name for column in keys.values() if column])
    if not labels:
        raise UnimixerError(f"{file}: no column can be a label (0 and 1, or a rating); add one, for example 'click'")
    domains = _domains(frame, keys)
    text = "\n".join(
        (
            f"# A first guess from the first {frame.height:,} rows of {file.name}. Read every line: what a",
            "# column means cannot be seen from its values.",
            f"name: {_quoted(re.sub(r'[^0-9A-Za-z]+', '-', path.name.split('.')[0]).strip('-') or 'own')}",
            *_keys_text(keys),
            *_labels_text(labels),
            *_split_text(keys["time"]),
            *_histories_text(keys, labels[0]),
            *_features_text(columns, keys, labels, domains),
            "",
        )
    )
    where = f"the schema inferred from {file}"
    parse(Schema, read_yaml(text, where), where=where)
    return text


# --- guesses ----------------------------------------------------------------------------------------------------------


def _sample(path: Path) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    for chunk in read_chunks([path]):
        frames.append(chunk.frame)
        if sum(frame.height for frame in frames) >= SAMPLE_ROWS:
            break
    return pl.concat(frames).head(SAMPLE_ROWS)


def _key(columns: Sequence[Column], names: str) -> Column | None:
    found = [c for c in columns if re.fullmatch(names, c.name, re.IGNORECASE) and c.kind in ("integer", "text")]
    return max((c for c in found if c.unique > 1), key=lambda c: c.unique, default=None)


def _time(columns: Sequence[Column]) -> Column | None:
    named = [c for c in columns if re.search(TIME_NAMES, c.name, re.IGNORECASE) and c.time_format and not c.missing]
    return max(named, key=lambda c: c.unique, default=None)


def _labels(columns: Sequence[Column], keys: Sequence[str]) -> list[Column]:
    free = [c for c in columns if c.name not in keys and not c.missing]
    found = [c for p in LABEL_NAMES for c in free if re.search(p, c.name, re.IGNORECASE) and c.is_binary]
    found += [c for c in free if _is_rating(c)]
    return list({c.name: c for c in found or [c for c in free if c.is_binary]}.values())


def _is_rating(column: Column) -> bool:
    named = re.search(RATING_NAMES, column.name, re.IGNORECASE) is not None
    return named and column.kind in ("integer", "number") and 2 < column.unique <= 20


def _domains(frame: pl.DataFrame, keys: dict[str, Column | None]) -> dict[str, str]:
    """Columns that have one value for every user (or every item) that occurs at least twice belong to it."""
    found: dict[str, str] = {}
    for role in ("item", "user"):
        key = keys[role]
        if key is None:
            continue
        plain = [n for n, t in frame.schema.items() if n != key.name and not isinstance(t, (pl.List, pl.Array))]
        groups = frame.group_by(key.name).agg(pl.col(plain).n_unique(), pl.len().alias("\0rows"))
        groups = groups.filter(pl.col("\0rows") > 1)
        found |= {name: role for name in plain if groups.height >= 20 and (groups.get_column(name) == 1).all()}
        found[key.name] = role
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def _keys_text(keys: dict[str, Column | None]) -> list[str]:
    lines = [] if any(keys.values()) else ["# no column looks like a user, an item or a time"]
    for role in ("user", "item", "time"):
        column = keys[role]
        if column is None:
            lines.append(f"  # {role}:  # no column was found by its name")
            continue
        lines.append(f"  {role}: {_quoted(column.name)}  # {column.evidence()}")
        if role == "time":
            lines.append(f"  time_format: {json.dumps(column.time_format)}  # from the size or the form of the values")
            lines.append("  timezone: UTC  # check: days and hours are counted in this zone")
    return ["keys:" if any(keys.values()) else "keys: {}", *lines]


def _labels_text(labels: Sequence[Column]) -> list[str]:
    lines = ["labels:"]
    for i, column in enumerate(labels):
        positive = _threshold(column) if _is_rating(column) else 1.0
        share = int((column.values.cast(pl.Float64) >= positive).sum()) / len(column.values)
        body: dict[str, object] = {"name": column.name}
        if _is_rating(column):
            body["threshold"] = positive
        mark = "" if i == 0 else "# "
        note = "" if i == 0 else "; another candidate"
        lines.append(f"  {mark}- {_flow(body)}  # {share:.1%} positive{note}")
    return lines


def _threshold(column: Column) -> float:
    """The rating that divides the rows most evenly."""
    values = column.values.cast(pl.Float64)
    return min(sorted(values.unique())[1:], key=lambda v: abs(float((values >= v).sum()) / len(values) - 0.5))  # type: ignore[no-any-return]


def _split_text(time: Column | None) -> list[str]:
    order = f"by {time.name}" if time else "by the order of the rows, because there is no time"
    return [
        f"split: {{by: quantile, validation: 0.8, test: 0.9}}  # {order}; or by date:",
        "# split: {by: date, validation: 2024-01-30, test: 2024-01-31}",
    ]


def _histories_text(keys: dict[str, Column | None], label: Column) -> list[str]:
    if keys["user"] is None or keys["item"] is None:
        return []
    lines = ["histories:", "  - {name: seen}  # every earlier impression of the user"]
    if not _is_rating(label):
        lines.append(f"  - {_flow({'name': 'positive', 'event': label.name})}  # those with {label.name} = 1")
    return lines


def _features_text(
    columns: Sequence[Column], keys: dict[str, Column | None], labels: Sequence[Column], domains: dict[str, str]
) -> list[str]:
    lines = ["features:"]
    outcomes = {column.name for column in labels}
    for column in columns:
        body = _body(column, domains.get(column.name, "context"))
        refusal = _refusal(column, keys, outcomes)
        if body is None:
            lines.append(f"  # {_quoted(column.name)}: {refusal or f'type {column.raw.dtype} is not read'}")
        elif refusal:
            lines.append(f"  # - {_flow(body)}  # {refusal}; {column.evidence()}")
        else:
            lines.append(f"  - {_flow(body)}  # {column.evidence()}")
    return [*lines, *_derived(keys, labels[0])]


def _derived(keys: dict[str, Column | None], label: Column) -> list[str]:
    """Features that are made of the keys: calendar and past items."""
    time, user, item = keys["time"], keys["user"], keys["item"]
    bodies: list[dict[str, object]] = []
    if time is not None:
        for part in ("hour", "weekday"):
            body: dict[str, object] = {"name": f"{part}_of_{time.name}", "kind": "categorical", "domain": "context"}
            bodies.append(body | {"source": time.name, "transform": part})
    if user is not None and item is not None:
        for history in ("seen",) if _is_rating(label) else ("seen", "positive"):
            body = {"name": f"{history}_{item.name}", "kind": "sequence", "domain": "behaviour", "history": history}
            bodies.append(body | {"source": item.name, "table": item.name} | _vocabulary(item))
    return [f"  - {_flow(body)}" for body in bodies]


def _refusal(column: Column, keys: dict[str, Column | None], outcomes: set[str]) -> str | None:
    """Why a column should be no feature."""
    named = [role for role, key in keys.items() if key is not None and key.name == column.name]
    if "time" in named:
        return "the time key"
    if named:
        return None
    if column.name in outcomes:
        return "a label, or another candidate"
    if re.search(OUTCOME_NAMES, column.name, re.IGNORECASE):
        return "CHECK: looks like an outcome of the impression, which is no feature"
    if not len(column.values) or (column.unique == 1 and not column.missing):
        return "one value only"
    if column.is_row_number:
        return "a different value in every row"
    if column.time_format and re.search(TIME_NAMES, column.name, re.IGNORECASE):
        return "another time"
    return None


def _body(column: Column, domain: str) -> dict[str, object] | None:
    """The feature that fits the values; ``None`` for types that are no feature."""
    body: dict[str, object] = {"name": column.name, "kind": "categorical", "domain": domain}
    missing: dict[str, object] = {"missing": ["", *column.null_texts]} if column.null_texts else {}
    if column.kind in ("other", "time"):
        return None
    if column.kind == "list":
        return body | ({"kind": "embedding", "width": column.width} if column.width else {"kind": "sequence"})
    if column.separator:
        return body | {"kind": "sequence", "separator": column.separator} | missing
    if _is_numeric(column):
        return body | {"kind": "numeric", "transform": "log_standardise"} | missing
    return body | _vocabulary(column) | missing


def _is_numeric(column: Column) -> bool:
    if column.kind == "number":
        return True
    if column.kind != "integer" or column.unique <= 20 or re.search(CODE_NAMES, column.name, re.IGNORECASE):
        return False
    if any(re.fullmatch(names, column.name, re.IGNORECASE) for names in KEY_NAMES.values()):
        return False
    return column.unique > MANY or re.search(MEASURE_NAMES, column.name, re.IGNORECASE) is not None


def _vocabulary(column: Column) -> dict[str, object]:
    return {"vocabulary": {"min_count": 2}} if column.unique > MANY else {}


def _flow(body: dict[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {_quoted(value)}" for key, value in body.items()) + "}"


def _quoted(value: object) -> str:
    """A value in YAML's flow form; plain only where it can be read as nothing else."""
    if isinstance(value, dict):
        return _flow(value)
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w-]*", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
