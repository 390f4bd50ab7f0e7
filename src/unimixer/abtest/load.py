"""Load exposures, outcomes and covariates from Parquet and CSV into the database of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.abtest.database import BATCH
from unimixer.abtest.events import Events, now_us
from unimixer.abtest.records import Covariate, Exposure, Outcome, read_row
from unimixer.abtest.specification import Experiment
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk
from unimixer.data.raw.values import check_exact
from unimixer.errors import UnimixerError, check_choice, nearest

KINDS: dict[str, type[Any]] = {"exposures": Exposure, "outcomes": Outcome, "covariates": Covariate}
_IDS = {"unit", "event_id", "request_id", "item"}
_NUMBERS = ("version", "propensity", "shadow", "value")


@dataclass(frozen=True)
class Loaded:
    """What became of the rows of a file."""

    table: str
    file: str
    rows: int
    added: int
    first_time: int | None
    last_time: int | None
    """Range of the times in microseconds since 1970; None in a table without times."""
    ignored: tuple[str, ...]
    """Columns that the table does not have."""

    @property
    def repeated(self) -> int:
        """Number of rows whose key was known."""
        return self.rows - self.added

    @property
    def days(self) -> tuple[str, str]:
        """The range of the times as text."""
        first, last = (
            "" if time is None else f"{datetime.fromtimestamp(time / 1e6, tz=UTC):%Y-%m-%dT%H:%M:%SZ}"
            for time in (self.first_time, self.last_time)
        )
        return first, last

    def values(self) -> dict[str, Any]:
        """Return all facts as plain values."""
        return {**asdict(self), "repeated": self.repeated}


def load_file(
    events: Events,
    table: str,
    path: Path,
    *,
    experiment: Experiment | None = None,
    advance: Callable[[int], object] = int,
) -> Loaded:
    """Add the rows of a file to a table; memory does not depend on their number.

    Args:
        events: the database.
        table: ``exposures``, ``outcomes`` or ``covariates``.
        path: Parquet, or CSV with a header; the columns have the names of the table's.
        experiment: of rows that name none; its arms are the only ones.
        advance: told the number of rows of every batch.

    Raises:
        UnimixerError: a row does not fit; those before it stay in the database.
    """
    check_choice("table", table, list(KINDS))
    kind, now = KINDS[table], now_us()
    add: dict[str, Callable[[Any], int]] = {
        "exposures": events.add_exposures,
        "outcomes": events.add_outcomes,
        "covariates": events.add_covariates,
    }
    defaults: dict[str, Any] = {"value": 1.0, "received": now} if table == "outcomes" else {}
    if experiment is not None and table != "outcomes":
        defaults |= {"experiment": experiment.name, "version": experiment.version}
    rows, added, ignored, times = 0, 0, dict[str, None](), [2**63, 0]
    try:
        for chunk in read_chunks([path], or_empty=True):
            _check_columns(chunk, kind, defaults)
            ignored |= dict.fromkeys(name for name in chunk.frame.columns if name not in kind._fields)
            for batch in _batches(chunk, kind, defaults):
                if experiment is not None and table == "exposures":
                    _check_arms(batch, experiment, path)
                added += add[table](batch)
                rows += len(batch)
                if "time" in kind._fields:
                    times = [min(times[0], *(r.time for r in batch)), max(times[1], *(r.time for r in batch))]
                advance(len(batch))
    except UnimixerError as error:
        kept = f"; the {rows:,} rows before are in the database, and loading again adds none twice" if rows else ""
        raise type(error)(f"{error}{kept}") from None
    first, last = times if times[1] else (None, None)
    return Loaded(table, str(path), rows, added, first, last, tuple(ignored))


def _check_columns(chunk: Chunk, kind: type[Any], defaults: dict[str, Any]) -> None:
    """Raise if a column is missing that every row needs, as all are where another separator stands between them."""
    known, there = {**kind._field_defaults, **defaults}, chunk.frame.columns
    missing = next((name for name in kind._fields if name not in known and name not in there), None)
    if missing is not None:
        way_out = "; write the file with commas" if len(there) == 1 and set(there[0]) & {";", "\t", "|"} else ""
        raise UnimixerError(f"{chunk.source}: missing column {missing!r}{nearest(missing, there)}{way_out}")


def _batches(chunk: Chunk, kind: type[Any], defaults: dict[str, Any]) -> Iterator[list[Any]]:
    frame = chunk.frame.select(name for name in chunk.frame.columns if name in kind._fields)
    frame = frame.with_columns(pl.col(pl.String).replace("", None))
    for name in _IDS.intersection(frame.columns):
        check_exact(chunk, frame[name])
    texts = [name for name in frame.columns if name in _NUMBERS and frame.schema[name] == pl.String]
    for start in range(0, frame.height, BATCH):
        batch = []
        for number, row in enumerate(frame.slice(start, BATCH).iter_rows(named=True), start):
            for name in texts:
                with suppress(ValueError, TypeError):  # a text that is no number stays, for the message
                    row[name] = float(row[name])
            batch.append(read_row(kind, row, chunk.at(number), defaults))
        yield batch


def _check_arms(batch: list[Exposure], experiment: Experiment, path: Path) -> None:
    for row in batch:
        if row.experiment != experiment.name or row.arm not in experiment.arms:
            raise UnimixerError(
                f"{path}: request {row.request_id!r} has arm {row.arm!r} of experiment {row.experiment!r}, but "
                f"{experiment.name!r} has the arms {', '.join(experiment.arms)}; load it with its own specification"
            )
        if bool(row.shadow) != experiment.arms[row.arm].shadow:
            kind, value = ("a shadow arm", 1) if experiment.arms[row.arm].shadow else ("no shadow arm", 0)
            raise UnimixerError(
                f"{path}: request {row.request_id!r} has shadow={row.shadow}, but {row.arm!r} is {kind} of "
                f"{experiment.name!r}; write shadow={value}"
            )
