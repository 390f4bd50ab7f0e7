"""Infer a first schema for own files from a sample, with the evidence of each guess in a comment."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from unimixer.data.file_settings import Files
from unimixer.data.raw.adapters.own import find_tables, with_options
from unimixer.data.raw.csv_files import sniff
from unimixer.data.raw.folders import is_parquet, log_files
from unimixer.data.raw.guess import (
    KEY_NAMES,
    OUTCOME_NAMES,
    TIME_NAMES,
    Key,
    guess_domains,
    guess_keys,
    guess_labels,
    is_rating,
    missing_label,
)
from unimixer.data.raw.profile import Column, Sample, printable, take_sample
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.settings import parse, read_yaml

MANY = 1000
"""More values than this make a vocabulary that drops what was seen once."""
MEASURE_NAMES = (
    r"num|count|cnt|price|amount|(^|_)age$|duration|size|width|height|length|days|hours|minutes|seconds|rate|ratio|total"
    r"|avg|sum|dist|_ms$|_s$|^I\d+$"
)
CODE_NAMES = r"(^|_)(id|code|key|hash|zip|uuid|type|category|cat|tag|level|feat\d*)$|^C\d+$|onehot"

UNKNOWN_TIME = r"(^|_)(time|timestamp|datetime|date|ts)$|stamp"
"""A column of such a name is a time also where its form is not known."""


def infer_schema(path: Path, **options: Any) -> str:
    """Write the text of a schema for a log of impressions.

    Every guess stands with its evidence (cardinality, missing share, examples) in a comment. Columns whose names look
    like outcomes of the impression are commented out of the features: an outcome is known too late to be one.

    Args:
        path: a Parquet or CSV file, or a folder that ``open_raw`` reads with an own schema.
        options: how CSV files are read, the fields of :class:`~unimixer.data.schema.Files`; without a separator, the
            one that cuts the first lines into equally many fields.

    Returns:
        YAML that ``load_schema`` reads.

    Raises:
        UnimixerError: the file cannot be read, or no column can be a label, or none a feature.
    """
    files = with_options(Files(), str(path), options)
    paths, *entities = find_tables(path)
    if not is_parquet(paths[0]):
        files = sniff(paths[0], files)
    sample = take_sample(paths, files)
    columns = sample.columns()
    keys = guess_keys(columns)
    labels = guess_labels(columns, [key.column.name for key in keys.values() if key.column])
    if not labels:
        raise UnimixerError(f"{sample.file}: no column can be a label: {missing_label(columns)}")
    tables = {
        role: take_sample(log_files(place, f"{role}s"), files.model_copy(update={"header": None}))
        for role, place in zip(("user", "item"), entities, strict=True)
        if place is not None
    }
    features = _features_text(sample, columns, keys, labels, tables)
    if not any(line.startswith("  - ") for line in features):
        refused = "; ".join(line.removeprefix("  # ") for line in features[1:4])
        raise UnimixerError(
            f"{sample.file}: no column can be a feature ({refused}); add columns that describe the user, the item or "
            "the impression"
        )
    name = re.sub(r"[^0-9A-Za-z]+", "-", path.resolve().name.split(".")[0]).strip("-") or "own"
    text = "\n".join(
        (
            f"# A first guess from the first {sample.frame.height:,} rows of {printable(sample.file.name)}. Read every "
            "line: what a",
            "# column means cannot be seen from its values.",
            f"name: {_quoted(name)}",
            *_files_text(files),
            *_keys_text(keys),
            *_labels_text(labels),
            *_split_text(keys["time"].column),
            *_histories_text(keys, labels[0]),
            *features,
            "",
        )
    )
    where = f"the schema inferred from {path}"
    parse(Schema, read_yaml(text, where), where=where)
    return text


def _files_text(files: Files) -> list[str]:
    body = files.model_dump(exclude_defaults=True)
    return [f"files: {_flow(body)}  # check: how the files of text are read"] if body else []


def _keys_text(keys: dict[str, Key]) -> list[str]:
    has_key = any(key.column for key in keys.values())
    lines = [] if has_key else ["# no column looks like a user, an item or a time"]
    for role in ("user", "item", "time"):
        column = keys[role].column
        if column is None:
            lines.append(
                f"  # {role}: COLUMN  # {keys[role].reason}; if there is one, write its name and remove the first #"
            )
            continue
        others = f"; another candidate: {', '.join(map(_quoted, keys[role].others))}" if keys[role].others else ""
        lines.append(f"  {role}: {_quoted(column.name)}  # {column.evidence()}{others}")
        if column.time is not None and role == "time":
            why = (
                "typed, so that no form is needed"
                if column.kind == "time"
                else "from the form or the size of the values"
            )
            others = (
                f"; CHECK: {' and '.join(map(_quoted, column.time.others))} would fit too" if column.time.others else ""
            )
            lines.append(f"  time_format: {json.dumps(column.time.name)}  # {why}{others}")
            lines.append("  timezone: UTC  # check: days and hours are counted in this zone")
    return ["keys:" if has_key else "keys: {}", *lines]


def _labels_text(labels: Sequence[Column]) -> list[str]:
    lines = ["labels:"]
    for i, column in enumerate(labels):
        positive = _threshold(column) if is_rating(column) else 1.0
        share = int((column.values.cast(pl.Float64) >= positive).sum()) / len(column.values)
        body: dict[str, object] = {"name": column.name}
        if is_rating(column):
            body["threshold"] = positive
        mark = "" if i == 0 else "# "
        note = "" if i == 0 else "; another candidate"
        lines.append(f"  {mark}- {_flow(body)}  # {share:.1%} positive{note}")
    return lines


def _threshold(column: Column) -> float:
    """Return the rating that divides the rows most evenly."""
    values = column.values.cast(pl.Float64)
    return min(sorted(values.unique())[1:], key=lambda v: abs(float((values >= v).sum()) / len(values) - 0.5))  # type: ignore[no-any-return]


def _split_text(time: Column | None) -> list[str]:
    order = f"by {_quoted(time.name)}" if time else "by the order of the rows, because there is no time"
    return [
        f"split: {{by: quantile, validation: 0.8, test: 0.9}}  # {order}; or by date:",
        "# split: {by: date, validation: 2024-01-30, test: 2024-01-31}",
    ]


def _histories_text(keys: dict[str, Key], label: Column) -> list[str]:
    if keys["user"].column is None or keys["item"].column is None:
        return []
    lines = ["histories:", "  - {name: seen}  # every earlier impression of the user"]
    if not is_rating(label):
        event = _flow({"name": "positive", "event": label.name})
        lines.append(f"  - {event}  # those with {_quoted(label.name)} = 1")
    return lines


def _features_text(
    sample: Sample,
    columns: Sequence[Column],
    keys: dict[str, Key],
    labels: Sequence[Column],
    tables: dict[str, Sample],
) -> list[str]:
    lines, domains = ["features:"], guess_domains(columns, keys)
    sources = {name: table.file.name for table in tables.values() for name in table.frame.columns}
    roles = {key.column.name: role for role, key in keys.items() if key.column}
    for column in columns:
        reason = _refusal(column, roles, {label.name for label in labels})
        if reason is None and column.name in sources and column.name not in roles:
            reason = f"is in {printable(sources[column.name])} too, and read from there"
        lines.append(_feature_text(column, domains.get(column.name, "context"), reason))
    lines += [f"  # {_quoted(name)}: {printable(reason)}" for name, reason in sample.left.items()]
    for role, table in tables.items():
        lines += _entity_text(role, table, keys[role].column)
    return [*lines, *_derived({role: key.column for role, key in keys.items()}, labels[0])]


def _entity_text(role: str, table: Sample, key: Column | None) -> list[str]:
    """Write the features of a table of users or items."""
    if key is None:
        return [f"  # {printable(table.file.name)}: not read, because the log has no key of the {role}"]
    if key.name not in table.frame.columns:
        return [f"  # CHECK {printable(table.file.name)}: it has no column {_quoted(key.name)}, which must be its key"]
    lines = [f"  # from {printable(table.file.name)}:"]
    for column in table.columns():
        if column.name != key.name:
            lines.append(_feature_text(column, role, _no_information(column, entity=True)))
    return lines + [f"  # {_quoted(name)}: {printable(reason)}" for name, reason in table.left.items()]


def _feature_text(column: Column, domain: str, refusal: str | None) -> str:
    body = _body(column, domain)
    if body is None:
        reason = "no values" if not len(column.values) else refusal or f"type {column.raw.dtype} is not read"
        return f"  # {_quoted(column.name)}: {reason}"
    if refusal:
        return f"  # - {_flow(body)}  # {refusal}; {column.evidence()}"
    return f"  - {_flow(body)}  # {column.evidence()}"


def _derived(keys: dict[str, Column | None], label: Column) -> list[str]:
    """Write the features that follow from the keys: calendar and past items."""
    time, user, item = keys["time"], keys["user"], keys["item"]
    bodies: list[dict[str, object]] = []
    if time is not None:
        for part in ("hour", "weekday"):
            body: dict[str, object] = {"name": f"{part}_of_{time.name}", "kind": "categorical", "domain": "context"}
            bodies.append(body | {"source": time.name, "transform": part})
    if user is not None and item is not None:
        for history in ("seen",) if is_rating(label) else ("seen", "positive"):
            body = {"name": f"{history}_{item.name}", "kind": "sequence", "domain": "behaviour", "history": history}
            bodies.append(body | {"source": item.name, "table": item.name} | _vocabulary(item))
    return [f"  - {_flow(body)}" for body in bodies]


def _refusal(column: Column, roles: dict[str, str], outcomes: set[str]) -> str | None:
    """Return why a column of the log should not be a feature, or None."""
    if column.name in roles:
        return "the time key" if roles[column.name] == "time" else None
    if column.name in outcomes:
        return "a label, or another candidate"
    if re.search(OUTCOME_NAMES, column.name, re.IGNORECASE):
        return "CHECK: looks like an outcome of the impression, not a feature"
    if column.time and re.search(TIME_NAMES, column.name, re.IGNORECASE):
        return "another time"
    stamps = column.kind == "text" or (column.kind in ("number", "integer") and column.unique > 31)
    if stamps and re.search(UNKNOWN_TIME, column.name, re.IGNORECASE):
        return "CHECK: named like a time, but of no form that is known"
    return _no_information(column)


def _no_information(column: Column, *, entity: bool = False) -> str | None:
    """Return why the values of a column carry no information, or None."""
    if not len(column.values) or (column.unique == 1 and not column.missing):
        return "one value only"
    if column.stray_text is not None:
        return (
            f"CHECK: numbers but for texts such as {printable(column.stray_text)!r}; where they mean a missing value, "
            "list them in 'missing' with kind: numeric"
        )
    if column.is_row_number and not (entity and column.kind == "integer"):
        return "a different value in every row"
    if column.kind == "text" and column.is_vector:
        return "a vector as text is not read; write lists in Parquet"
    if column.kind == "text" and column.values.str.contains(r"^-?\d+,\d{1,2}$").all():
        return "CHECK: looks like numbers with a decimal comma; write a point instead, and kind: numeric"
    return None


def _body(column: Column, domain: str) -> dict[str, object] | None:
    """Return the feature that fits the values, or None for types that cannot be a feature."""
    body: dict[str, object] = {"name": column.name, "kind": "categorical", "domain": domain}
    missing: dict[str, object] = {"missing": ["", *column.null_texts]} if column.null_texts else {}
    if column.kind in ("other", "time") or not len(column.values):
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
    """Write a value in YAML's flow form, quoted unless it can only be read in one way."""
    if isinstance(value, dict):
        return _flow(value)
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w-]*", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return printable(json.dumps(value, ensure_ascii=False))
