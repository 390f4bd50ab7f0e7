"""Keep exposures, outcomes, covariates and specifications of experiments in SQLite or PostgreSQL."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from unimixer.abtest.canonical import canonical_text
from unimixer.abtest.changes import check_change
from unimixer.abtest.database import Database, open_database
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.abtest.specification import Experiment
from unimixer.errors import UnimixerError
from unimixer.postgres import DatabaseError
from unimixer.settings import dump_yaml, parse, read_yaml

__all__ = ["DatabaseError", "Events", "now_us"]

TABLES = {
    "exposures": {
        "experiment": "TEXT",
        "version": "INTEGER",
        "unit": "TEXT",
        "arm": "TEXT",
        "time": "BIGINT",
        "request_id": "TEXT",
        "bundle": "TEXT",
        "propensity": "DOUBLE PRECISION",
        "shadow": "INTEGER",
        "positions": "TEXT",
        "context": "TEXT",
    },
    "outcomes": {
        "event_id": "TEXT",
        "unit": "TEXT",
        "event": "TEXT",
        "value": "DOUBLE PRECISION",
        "time": "BIGINT",
        "received": "BIGINT",
        "request_id": "TEXT",
        "item": "TEXT",
    },
    "covariates": {"experiment": "TEXT", "unit": "TEXT", "name": "TEXT", "value": "DOUBLE PRECISION"},
    "specifications": {"experiment": "TEXT", "version": "INTEGER", "text": "TEXT", "time": "BIGINT"},
}
"""Columns of every table. Times are microseconds since 1970 (UTC), units canonical texts."""
KEYS = {
    "exposures": "experiment, request_id",
    "outcomes": "event_id",
    "covariates": "experiment, unit, name",
    "specifications": "experiment, version",
}
_INDEXES = {"exposures": "unit", "outcomes": "unit, event, time", "covariates": "unit"}


class Events:
    """The events of all experiments in one database.

    Every row has a key, and a row whose key is known is not added again: who does not know whether a write succeeded
    repeats it. The first row of a key stays.

    Args:
        address: ``sqlite:///FILE`` or ``postgresql://user@host:port/db``.
        timeout: seconds that a statement may take.
        create: whether missing tables, and a missing file, are made.

    Raises:
        UnimixerError: the address is none, a table is missing or has other columns.
        DatabaseError: the database cannot be used now.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, create: bool = True) -> None:
        self._database = open_database(address, timeout=timeout, create=create)
        self.name = self._database.name
        try:
            with self._database.transaction():
                self._check_tables(create)
        except BaseException:
            self.close()
            raise

    def add_exposures(self, rows: Sequence[Exposure]) -> int:
        """Add exposures; return the number of new ones, by experiment and request id."""
        return self._add("exposures", rows)

    def add_outcomes(self, rows: Sequence[Outcome]) -> int:
        """Add outcomes; return the number of new ones, by event id."""
        return self._add("outcomes", rows)

    def add_covariates(self, rows: Sequence[Covariate]) -> int:
        """Add values of units; return the number of new ones, by experiment, unit and name."""
        return self._add("covariates", rows)

    def register(self, *experiments: Experiment, now: int | None = None) -> bool:
        """Register specifications, all or none, and return whether any is new.

        Args:
            experiments: each of a new name, or equal to the registered one, or an allowed change of it.
            now: microseconds since 1970 (default: the clock).

        Raises:
            UnimixerError: the change would spoil the experiment, see :func:`check_change`.
        """
        time = now_us() if now is None else now
        with self._database.transaction():
            self._database.lock_for_setup()
            for experiment in experiments:
                known = self._specification(experiment.name)
                if known is not None:
                    check_change(known, experiment, now=time)
            rows = [(one.name, one.version, dump_yaml(one), time) for one in experiments]
            return bool(rows) and self._insert("specifications", rows) > 0

    def specification(self, name: str) -> Experiment | None:
        """Return the registered specification with the highest version."""
        with self._database.transaction():
            return self._specification(name)

    def names(self) -> list[str]:
        """Return the names of the registered experiments."""
        with self._database.transaction():
            rows = self._database.execute("SELECT DISTINCT experiment FROM specifications ORDER BY experiment")
        return [name for (name,) in rows]

    def delete_unit(self, unit: str | int) -> dict[str, int]:
        """Delete all rows of a unit, whatever the form of its id; return their numbers by table."""
        with self._database.transaction():
            return {
                table: self._database.change(f"DELETE FROM {table} WHERE unit = ?", [canonical_text(unit)])
                for table, columns in TABLES.items()
                if "unit" in columns
            }

    def delete_before(self, time: int) -> dict[str, int]:
        """Delete exposures and outcomes before a time, and covariates of experiments that ended before it.

        Raises:
            UnimixerError: an experiment that started before the time has not ended by then.
        """
        with self._database.transaction():
            rows = self._database.execute("SELECT DISTINCT experiment FROM specifications")
            known = [found for (name,) in rows if (found := self._specification(name)) is not None]
            for experiment in known:
                if experiment.start_us < time < experiment.end_us:
                    day = datetime.fromtimestamp(time / 1e6, tz=UTC).date()
                    raise UnimixerError(
                        f"{self.name}: experiment {experiment.name!r} runs from {experiment.start} to "
                        f"{experiment.end}, so deleting its events before {day} would spoil it; choose a day up to its "
                        "start, or from its end on"
                    )
            counts = {
                table: self._database.change(f"DELETE FROM {table} WHERE time < ?", [time])
                for table in ("exposures", "outcomes")
            }
            ended = [experiment.name for experiment in known if experiment.end_us <= time]
            counts["covariates"] = sum(
                self._database.change("DELETE FROM covariates WHERE experiment = ?", [name]) for name in ended
            )
            return counts

    @contextmanager
    def snapshot(self) -> Iterator[Database]:
        """Open one state of the database for queries; writers go on meanwhile."""
        with self._database.transaction(write=False):
            yield self._database

    def counts(self) -> dict[str, int]:
        """Return the number of rows of every table."""
        with self._database.transaction():
            return {table: self._database.execute(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _add(self, table: str, rows: Sequence[Sequence[object]]) -> int:
        if not rows:
            return 0
        with self._database.transaction():
            return self._insert(table, rows)

    def _insert(self, table: str, rows: Sequence[Sequence[object]]) -> int:
        columns = TABLES[table]
        return self._database.insert(table, list(columns), list(columns.values()), rows)

    def _specification(self, name: str) -> Experiment | None:
        rows = self._database.execute(
            "SELECT text FROM specifications WHERE experiment = ? ORDER BY version DESC LIMIT 1", [name]
        )
        where = f"{self.name}, specification of {name!r}"
        return parse(Experiment, read_yaml(rows[0][0], where), where=where) if rows else None

    def _check_tables(self, create: bool) -> None:
        database = self._database
        missing = [table for table in TABLES if not database.columns(table)]
        if missing and create:
            database.lock_for_setup()
            for table in (table for table in missing if not database.columns(table)):
                columns = ", ".join(f"{name} {kind}" for name, kind in TABLES[table].items())
                database.change(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({KEYS[table]}))")
                if table in _INDEXES:
                    database.change(f"CREATE INDEX {table}_by_unit ON {table} ({_INDEXES[table]})")
        elif missing:
            raise UnimixerError(
                f"{self.name}: no events of experiments (no table {missing[0]}); unimixer serve --database and "
                "unimixer abtest load make it"
            )
        for table, needed in TABLES.items():
            lacking = [name for name in needed if name not in database.columns(table)]
            if lacking:
                raise UnimixerError(
                    f"{self.name}: table {table} lacks column {lacking[0]!r}, so it holds no events of experiments; "
                    "name another database"
                )


def now_us() -> int:
    """Return the clock in microseconds since 1970."""
    return clock.time_ns() // 1_000
