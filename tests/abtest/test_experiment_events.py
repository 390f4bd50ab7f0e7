"""The database of events, in SQLite and in a real PostgreSQL: every row once, changes refused, deletion."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from database import PASSWORD, Database
from experiments import experiment, microseconds

from unimixer.abtest.database import BATCH
from unimixer.abtest.events import DatabaseError, Events
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.errors import UnimixerError

NOW = microseconds("2026-03-10")


def exposure(number: int, unit: str = "u1", day: int = 5) -> Exposure:
    return Exposure("mixer", 1, unit, "new", microseconds(f"2026-03-{day:02}"), f"r{number}", "b1", 0.5, 0, '["i1"]')


def outcome(number: int, unit: str = "u1", value: float = 1.0) -> Outcome:
    return Outcome(f"e{number}", unit, "click", value, NOW, NOW + 1, None, "i1")


def test_a_row_is_kept_once_and_the_first_stays(events: Events) -> None:
    assert events.add_outcomes([outcome(1), outcome(2), outcome(1)]) == 2
    assert events.add_outcomes([outcome(2, value=9.0), outcome(3)]) == 1
    assert events.add_exposures([exposure(1), exposure(1), exposure(2)]) == 2
    assert events.add_covariates([Covariate("mixer", "u1", "clicks", 3.5)]) == 1
    assert events.add_covariates([Covariate("mixer", "u1", "clicks", 4.5), Covariate("mixer", "u2", "clicks", 0)]) == 1
    assert events.add_outcomes([]) == 0
    assert events.counts() == {"exposures": 2, "outcomes": 3, "covariates": 2, "specifications": 0}
    with events._database.transaction():
        rows = events._database.execute("SELECT * FROM outcomes WHERE event_id = ?", ["e2"])
        assert rows == [("e2", "u1", "click", 1.0, NOW, NOW + 1, None, "i1")]
        assert events._database.execute("SELECT * FROM exposures WHERE request_id = ?", ["r1"]) == [
            ("mixer", 1, "u1", "new", microseconds("2026-03-05"), "r1", "b1", 0.5, 0, '["i1"]', "{}")
        ]


def test_more_rows_than_fit_one_statement_are_counted(events: Events) -> None:
    rows = [outcome(number) for number in range(BATCH + 5)]
    assert events.add_outcomes(rows) == BATCH + 5
    assert events.add_outcomes([*rows, outcome(-1)]) == 1


def test_tables_are_found_again(address: str) -> None:
    for added in (1, 0):
        events = Events(address)
        assert events.add_outcomes([outcome(1)]) == added
        assert events.counts()["outcomes"] == 1
        events.close()
    Events(address, create=False).close()


def test_what_is_not_there_is_not_made_for_a_reader(address: str) -> None:
    with pytest.raises(UnimixerError, match=r"no such file|no events of experiments"):
        Events(address, create=False)


def test_a_specification_that_changes_under_way_is_refused(events: Events) -> None:
    assert events.specification("mixer") is None
    assert events.register(experiment(traffic=0.5), now=NOW)
    assert not events.register(experiment(traffic=0.5), now=NOW)
    with pytest.raises(UnimixerError, match="salt changed while it runs"):
        events.register(experiment(version=2, traffic=0.5, salt="other"), now=NOW)
    assert events.specification("mixer") == experiment(traffic=0.5)
    assert events.register(experiment(version=2), now=NOW)
    assert events.specification("mixer") == experiment(version=2)
    with pytest.raises(UnimixerError, match="version 1 differs from the registered version 2"):
        events.register(experiment(traffic=0.5), now=NOW)
    assert events.names() == ["mixer"]
    other = experiment(name="other")
    with pytest.raises(UnimixerError, match="version 1 differs from the registered version 2"):
        events.register(other, experiment(traffic=0.5), now=NOW)
    assert events.names() == ["mixer"]
    assert events.register(other, experiment(version=2), now=NOW)
    assert not events.register(now=NOW)
    assert events.names() == ["mixer", "other"]


def test_a_unit_is_deleted_from_every_table(events: Events) -> None:
    events.add_exposures([exposure(1), exposure(2, "u2")])
    events.add_outcomes([outcome(1), outcome(2), outcome(3, "u2")])
    events.add_covariates([Covariate("mixer", "u1", "clicks", 3)])
    assert events.delete_unit("u1") == {"exposures": 1, "outcomes": 2, "covariates": 1}
    assert events.delete_unit("u1") == {"exposures": 0, "outcomes": 0, "covariates": 0}
    events.add_outcomes([outcome(4, "7"), outcome(5, "7")])
    assert events.delete_unit("7.0")["outcomes"] == 2
    assert events.delete_unit(7)["outcomes"] == 0
    assert events.counts() == {"exposures": 1, "outcomes": 1, "covariates": 0, "specifications": 0}


def test_old_events_are_deleted_but_not_those_of_an_experiment_that_runs(events: Events) -> None:
    events.register(experiment(), now=NOW)
    events.add_exposures([exposure(1, day=2), exposure(2, day=9)])
    events.add_outcomes([outcome(1)])
    events.add_covariates([Covariate("mixer", "u1", "clicks", 3)])
    with pytest.raises(UnimixerError, match="'mixer' runs from 2026-03-01 to 2026-03-31, so deleting"):
        events.delete_before(microseconds("2026-03-05"))
    none = {"exposures": 0, "outcomes": 0, "covariates": 0}
    assert events.delete_before(microseconds("2026-03-01")) == none
    assert events.delete_before(microseconds("2026-03-31")) == {"exposures": 2, "outcomes": 1, "covariates": 1}


def test_two_writers_add_a_row_once(address: str) -> None:
    one, other = Events(address), Events(address)
    assert one.add_outcomes([outcome(1), outcome(2)]) + other.add_outcomes([outcome(2), outcome(3)]) == 3
    one.close()
    other.close()


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE outcomes (id INTEGER)")
    other.close()
    with pytest.raises(UnimixerError, match="table outcomes lacks column 'event_id'"):
        Events(f"sqlite:///{path}")
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(UnimixerError, match="file is not a database"):
        Events(f"sqlite:///{tmp_path / 'text'}")


def test_a_file_that_was_moved_takes_no_events_to_nowhere(tmp_path: Path) -> None:
    events = Events(f"sqlite:///{tmp_path / 'events.sqlite'}")
    (tmp_path / "events.sqlite").rename(tmp_path / "moved.sqlite")
    with pytest.raises(DatabaseError, match="the file was moved or removed"):
        events.add_outcomes([outcome(1)])
    (tmp_path / "moved.sqlite").rename(tmp_path / "events.sqlite")
    assert events.add_outcomes([outcome(1)]) == 1
    events.close()


@pytest.mark.parametrize("address", ["events.sqlite", "sqlite:///", "sqlite:///:memory:", "mysql://secret@host/db"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UnimixerError, match="is no database; use sqlite:///FILE or postgresql") as found:
        Events(address)
    assert "secret" not in str(found.value)


def test_a_database_that_is_killed_and_starts_again_has_every_row_once(database: Database) -> None:
    events = Events(database.address(), timeout=5)
    rows = [outcome(number) for number in range(50)]
    assert events.add_outcomes(rows[:30]) == 30
    database.stop()
    with pytest.raises(DatabaseError) as found:
        events.add_outcomes(rows[20:])
    assert PASSWORD not in str(found.value)
    database.start()
    assert events.add_outcomes(rows[20:]) == 20
    assert events.counts()["outcomes"] == 50
    events.close()
