"""Append days to a dataset: new rows, grown vocabularies and histories; what was there stays as it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.data import write_dataset
from unimixer.data.dataset import DAYS, Dataset, SplitSummary, add_up, current_splits, day_hash
from unimixer.data.encoding.counts import NEVER, add_counts
from unimixer.data.encoding.fit import ReadStatistics
from unimixer.data.encoding.grow import grow, table_or_empty
from unimixer.data.encoding.later_counts import FILE as COUNTS
from unimixer.data.encoding.later_counts import load_log_end
from unimixer.data.encoding.pending import FILE as PENDING
from unimixer.data.encoding.pending import load_pending, save_pending
from unimixer.data.encoding.splits import Sample, Splitter
from unimixer.data.encoding.statistics import Statistics
from unimixer.data.prepare import check_labels
from unimixer.data.raw.adapters import ADAPTERS, open_raw, own
from unimixer.data.raw.origin import fingerprints
from unimixer.data.raw.passes import LogReader, Steps
from unimixer.data.raw.tables import RawTables
from unimixer.data.raw.times import as_time, dates_of
from unimixer.data.schema import Schema
from unimixer.data.split_settings import ColumnSplit
from unimixer.data.write_dataset import Encode, encode
from unimixer.errors import UnimixerError
from unimixer.io import atomic_folder, file_lock, write_text

_FOLDER = re.compile(r"\d{5}|\.\d{5}\.\d+\.(tmp|old)")
"""Names of the folders of days, and of those that are not finished."""
HOLD_OUT = 0.1
"""Share of the newest days that is held out by default."""


def open_days(dataset: Dataset, raw: Path) -> tuple[RawTables, dict[str, Any]]:
    """Open the raw data of later days with the schema of a dataset; return also their origin."""
    origin, schema = dataset.manifest.get("origin") or {}, dataset.transform.schema
    source, options = str(origin.get("source", "")), origin.get("options") or {}
    known = source in ADAPTERS
    # of own files the schema that the dataset keeps counts, with its options, and not the schema file of today
    tables = open_raw(source, raw, schema=schema, **options) if known else own.load(raw, schema=schema)
    files = {"raw": str(raw.resolve()), "files": fingerprints(tables.files)}
    return tables, {"source": source, "options": options, **files}


def extend(
    folder: Path | str, tables: RawTables, *, origin: dict[str, Any] | None = None, hold_out: float = HOLD_OUT
) -> Dataset:
    """Append whole days to a dataset; a killed call leaves the dataset as it was.

    All rows that the dataset had become training rows. Of the new ones, in the order of time, the last ``hold_out`` are
    the validation and the test part, half each.

    Args:
        folder: of the dataset.
        tables: raw data of the days after its last one, opened with its schema.
        origin: facts on where the days came from, kept in the manifest.
        hold_out: share of the new rows that does not train yet.

    Raises:
        UnimixerError: a day is there already, is missing or comes too early; a wrong value, with its row.
    """
    dataset = Dataset(folder)
    if not 0 < hold_out <= 1:
        raise UnimixerError(f"hold_out={hold_out} must be above 0 and at most 1")
    with file_lock(dataset.folder / ".lock", f"{dataset.folder} is being extended by another process; wait for it"):
        return _extend(Dataset(folder), tables, origin or {}, hold_out)


def _extend(dataset: Dataset, tables: RawTables, origin: dict[str, Any], hold_out: float) -> Dataset:
    folder, old = dataset.folder, dataset.transform
    schema = old.schema
    if "stream" in dataset.manifest or schema.keys.time is None:
        reason = "its schema names no keys.time" if schema.keys.time is None else "it is a stream"
        raise UnimixerError(f"{folder}: no days can be appended, because {reason}")
    if isinstance(schema.split, ColumnSplit):
        raise UnimixerError(
            f"{folder}: no days can be appended, because column {schema.split.column!r} names the parts of its split, "
            "which stay as they are; prepare the log with a split by date instead"
        )
    label = schema.sampled_label
    if label is not None and not label.presampled:
        raise UnimixerError(
            f"{folder}: no days can be appended, because label {label.name!r} has negative_sampling_rate: the held-out "
            "rows keep all negatives, and they would train with the next day; sample the logs before, and prepare them "
            "with presampled: true"
        )
    pending = load_pending(dataset.state_folder)
    keys = schema.keys
    tables = replace(
        tables,
        schema=schema,
        users=table_or_empty(schema, "users", tables.users, keys.user),
        items=table_or_empty(schema, "items", tables.items, keys.item),
    )
    (extent,) = LogReader(tables).run(ReadDays(schema))
    days = _with_span(dataset)
    first, last = _check_days(folder, days, extent.days)
    before = old.log_end
    if schema.counts and before is None:  # data of earlier versions keep the numbers beside the transform
        before = load_log_end(dataset.state_folder, schema, NEVER)
    tables, log_end = add_counts(tables, before)
    reader = LogReader(tables)
    splitter = _splitter(extent, hold_out, f"{folder}: {_named(first, last)}")
    statistics = Statistics.of_tables(schema, tables)
    log = Statistics.merge(reader.run(ReadStatistics(schema, splitter)))
    statistics.join(log, whole=False)
    grown = grow(old, statistics, pending)
    number = len(days)
    name = f"{DAYS}/{number:05d}"
    _remove_leftovers(folder / DAYS, number)
    with atomic_folder(folder / name, overwrite=True) as new:
        tables_now = grown.transform.spec.tables
        grown.transform.with_log_end(log_end).save(new / "transform", before=dataset.transform_folder)
        save_pending(new, grown.pending)
        del grown
        encoding = Encode(new.absolute(), splitter, statistics.rows, write_dataset.PART_ROWS)
        splits = encode(reader, encoding)
        transform = (new / "transform" / "transform.json").read_bytes()
    for part in (part for summary in splits.values() for part in summary.parts):
        part["file"] = f"{name}/{part['file']}"
    entry = _day(dataset.hash, transform, first, last, splits, origin)
    chain = [*days, {"tables": tables_now, **entry}]
    manifest = {**dataset.manifest, "hash": chain[-1]["hash"], "state": name, "days": chain}
    current = current_splits(chain)
    check_labels(schema, current["train"], "train")
    manifest["splits"] = {split: asdict(summary) for split, summary in current.items()}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    if number > 2:  # a process may still open the state of the day before
        shutil.rmtree(folder / DAYS / f"{number - 2:05d}" / "transform", ignore_errors=True)
        for state in (PENDING, COUNTS):
            (folder / DAYS / f"{number - 2:05d}" / state).unlink(missing_ok=True)
    return Dataset(folder)


def _remove_leftovers(days: Path, number: int) -> None:
    """Remove the folders of days that killed calls left: those that the manifest does not name."""
    named = {f"{one:05d}" for one in range(1, number)}
    for path in days.iterdir() if days.exists() else ():
        if _FOLDER.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path)


def _day(
    before: str, transform: bytes, first: date, last: date, splits: dict[str, SplitSummary], origin: dict[str, Any]
) -> dict[str, Any]:
    """Return the entry of some days in the manifest."""
    parts = {name: asdict(summary) for name, summary in splits.items()}
    hashes = day_hash(before, transform, parts)
    return {"first": str(first), "last": str(last), "origin": origin, **hashes, "splits": parts}


# ---- days -----------------------------------------------------------------------------------------------------------


@dataclass
class Extent:
    """The days of a log, and a sample of its times."""

    days: set[date]
    times: Sample


@dataclass(frozen=True)
class ReadDays:
    """Reads the days of a log."""

    schema: Schema
    title: str = "reading times"

    def run(self, tables: RawTables, shard: range) -> Steps[Extent]:
        """Return the days of a shard of the log."""
        extent = Extent(set(), Sample())
        for placed in tables.pieces(shard):
            if placed.chunk is not None:
                times = as_time(placed.chunk, self.schema.keys, placed.first_row)
                extent.times.add(times.astype(np.float64), placed.first_row + np.arange(len(times)))
                extent.days |= set(dates_of(times, self.schema.keys.timezone))
            yield placed.step
        return extent


def _with_span(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the days of a dataset; those of the first preparation are known by the times of its rows."""
    first, *later = dataset.days
    if "last" not in first:
        whole = add_up([SplitSummary(**summary) for summary in first["splits"].values()])
        times = np.array([whole.first_time, whole.last_time])
        dates = dates_of(times, dataset.transform.schema.keys.timezone)
        span = {"first": str(min(dates)), "last": str(max(dates)), "tables": dataset.transform.spec.tables}
        first = {**span, **first}
    return [first, *later]


def _check_days(where: Path, known: Sequence[dict[str, Any]], days: set[date]) -> tuple[date, date]:
    """Return the first and the last day to append; raise unless they follow the last day of the dataset one by one."""
    last = date.fromisoformat(known[-1]["last"])
    if not days:
        raise UnimixerError(f"{where}: the log of the new days has no rows")
    early = sorted(day for day in days if day <= last)
    if early:
        begin = date.fromisoformat(known[0]["first"])
        reason = "is there already" if early[0] >= begin else f"lies before its first day {begin}"
        raise UnimixerError(
            f"{where}: the day {early[0]} {reason}; its last day is {last}, so append rows of {last + timedelta(1)} on"
        )
    missing = [day for day in _range(last + timedelta(1), max(days)) if day not in days]
    if missing:
        raise UnimixerError(
            f"{where}: the day {missing[0]} is missing: the last day is {last}, and the new rows are of "
            f"{_named(min(days), max(days))}; append the days one after the other"
        )
    return min(days), max(days)


def _range(first: date, last: date) -> Sequence[date]:
    return [first + timedelta(number) for number in range((last - first).days + 1)]


def _named(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _splitter(extent: Extent, hold_out: float, where: str) -> Splitter:
    """Cut the last part of the new rows off by time."""
    times = extent.times.values
    validation, test = (float(np.quantile(times, 1 - share, method="higher")) for share in (hold_out, hold_out / 2))
    if hold_out == 1:
        validation = -np.inf
    counts = [(times < validation).sum(), ((times >= validation) & (times < test)).sum(), (times >= test).sum()]
    if not all(counts[1:]) or not (counts[0] or hold_out == 1):
        raise UnimixerError(
            f"{where}: {len(times):,} rows at these times cannot be cut into parts with hold_out={hold_out:g}; "
            "choose another"
        )
    return Splitter(validation, test)
