"""Files into the database of events, by the command: Parquet and CSV, every row once, one sentence for a mistake."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from experiments import experiment, microseconds

from unimixer.abtest.events import Events
from unimixer.abtest.load import load_file
from unimixer.abtest.records import time_us
from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml

MOMENT = microseconds("2026-03-10T12:00:00")


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(SystemExit) as ended:
        main(["abtest", *words, "--json"])
    said = capsys.readouterr()
    return int(str(ended.value.code)), json.loads(said.out.splitlines()[-1]), said.err


def outcomes(events: Events) -> list[tuple[Any, ...]]:
    with events._database.transaction():
        return events._database.execute(
            "SELECT event_id, unit, event, value, time, item FROM outcomes ORDER BY event_id"
        )


def test_parquet_and_csv_are_the_same_rows(events: Events, tmp_path: Path) -> None:
    when = [datetime(2026, 3, 10, 12, tzinfo=UTC), datetime(2026, 3, 10, 12, 0, 0, 5, tzinfo=UTC)]
    frame = pl.DataFrame(
        {
            "event_id": [1, 2],
            "unit": [7.0, 8.0],
            "event": "click",
            "value": [None, 2.5],
            "time": when,
            "item": ["a", None],
        }
    )
    frame.write_parquet(tmp_path / "events.parquet")
    lines = [
        "event_id,unit,event,value,time,item,page",
        "1,7,click,,2026-03-10 12:00,a,x",
        f"2,8.0,click,2.5,{MOMENT + 5},,y",
    ]
    (tmp_path / "events.csv").write_text("\n".join(lines))
    expected = [("1", "7", "click", 1.0, MOMENT, "a"), ("2", "8", "click", 2.5, MOMENT + 5, None)]
    found = load_file(events, "outcomes", tmp_path / "events.parquet")
    assert (found.rows, found.added, found.first_time, found.last_time) == (2, 2, MOMENT, MOMENT + 5)
    assert outcomes(events) == expected
    assert time_us("2109-06-01T12:10:34.828749", "time") == microseconds("2109-06-01T12:10:34") + 828_749
    again = load_file(events, "outcomes", tmp_path / "events.csv")
    assert (again.rows, again.added, again.repeated, again.ignored) == (2, 0, 2, ("page",))
    assert outcomes(events) == expected


def test_exposures_belong_to_the_specification_that_is_given(
    events: Events, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixer.yaml").write_text(dump_yaml(experiment(version=3)))
    rows = {"unit": ["1", "2"], "arm": ["old", "new"], "time": MOMENT, "request_id": ["a", "b"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "exposures.parquet")
    pl.DataFrame({"unit": ["1"], "name": ["clicks"], "value": [3]}).write_parquet(tmp_path / "covariates.parquet")
    command = ["load", "--database", address, "--experiment", str(tmp_path / "mixer.yaml")]
    files = ["--exposures", str(tmp_path / "exposures.parquet"), "--covariates", str(tmp_path / "covariates.parquet")]
    code, found, _ = run(*command, *files, capsys=capsys)
    assert code == 0
    assert [(one["table"], one["added"]) for one in found["loaded"]] == [("exposures", 2), ("covariates", 1)]
    assert found["registered"] == {"experiment": "mixer", "version": 3, "new": True}
    with pytest.raises(SystemExit):
        main(["abtest", *command])
    assert "version 3 of experiment 'mixer' was registered before" in capsys.readouterr().out
    assert events.counts() == {"exposures": 2, "outcomes": 0, "covariates": 1, "specifications": 1}
    with events._database.transaction():
        kept = events._database.execute("SELECT experiment, version, shadow FROM exposures")
    assert kept == [("mixer", 3, 0)] * 2
    pl.DataFrame({**rows, "arm": ["old", "third"], "request_id": ["c", "d"]}).write_parquet(
        tmp_path / "exposures.parquet"
    )
    code, found, _ = run(*command, *files, capsys=capsys)
    assert code == 2
    assert "request 'd' has arm 'third' of experiment 'mixer', but 'mixer' has the arms old, new" in found["error"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (",7,click,1,2026-03-10", "row 2.event_id: required, but not given"),
        ("b,7,click,one,2026-03-10", "row 2.value: expected a finite number, found 'one'"),
        ("b,7,click,1,yesterday", "row 2.time='yesterday' is no time"),
        ("b,7,click,1,1773144000", "row 2.time=1773144000 is not between 2000 and 2200"),
        ("b,,click,1,2026-03-10", "row 2.unit: required, but not given"),
        ("b,7,click,1e300,2026-03-10", "row 2.value: expected a number of at most 1e50 in size, found 1e+300"),
    ],
)
def test_a_row_that_does_not_fit_is_named(line: str, sentence: str, tmp_path: Path) -> None:
    events = Events(f"sqlite:///{tmp_path / 'events.sqlite'}")
    path = tmp_path / "events.csv"
    path.write_text(f"event_id,unit,event,value,time\na,7,click,1,2026-03-10\n{line}\n")
    with pytest.raises(UnimixerError) as found:
        load_file(events, "outcomes", path)
    assert sentence in str(found.value)
    assert events.counts()["outcomes"] == 0
    events.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("event_id;unit;event;time\na;7;click;2026-03-10\n", "missing column 'event_id'; did you mean 'event_id;unit"),
        ("a\tb\n1\t2\n", "missing column 'event_id'; known: a\tb; write the file with commas"),
        (
            "event_id,user,event,time\na,7,click,2026-03-10\n",
            "missing column 'unit'; known: event, event_id, time, user",
        ),
        ("event_id,event,time\n", "missing column 'unit'"),
    ],
)
def test_a_file_without_a_needed_column_is_refused(text: str, sentence: str, events: Events, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(UnimixerError) as found:
        load_file(events, "outcomes", path)
    assert sentence in str(found.value)
    assert events.counts()["outcomes"] == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"context": "tab=home"}, "row 1.context: expected a JSON object as text, found 'tab=home'"),
        ({"context": "[]"}, "row 1.context: expected a JSON object as text"),
        ({"context": '{"tab": NaN}'}, "row 1.context: expected a JSON object as text"),
        ({"context": '{"tab": "\\ud800"}'}, "row 1.context: expected a JSON object as text"),
        ({"context": '{"tab": "a\\u0000"}'}, "row 1.context: a text in it has the character NUL"),
        ({"context": "[" * 100_000}, "row 1.context: expected a JSON object as text"),
        ({"positions": "i1"}, "row 1.positions: expected a JSON list as text, found 'i1'"),
        ({"propensity": 1.5}, "row 1.propensity: expected a probability from 0 to 1, found 1.5"),
        ({"arm": "watch"}, "request 'r1' has shadow=0, but 'watch' is a shadow arm of 'mixer'; write shadow=1"),
        ({"shadow": 1}, "request 'r1' has shadow=1, but 'old' is no shadow arm of 'mixer'; write shadow=0"),
        ({"unit": pl.Series([2.0**24], dtype=pl.Float32)}, "is a key of 2^24 or more in Float32"),
        ({"unit": 2.0**53}, "is a key of 2^53 or more in Float64, which has lost its last digits"),
        ({"request_id": "1.2e+18"}, "is a key written as a float"),
    ],
)
def test_an_exposure_that_would_spoil_readings_is_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    events = Events(f"sqlite:///{tmp_path / 'events.sqlite'}")
    given = experiment(arms={"old": {}, "new": {}, "watch": {"shadow": True}})
    row = {"unit": "7", "arm": "old", "time": MOMENT, "request_id": "r1", "context": '{"tab": "h\u00f6me"}'}
    path = tmp_path / "exposures.parquet"
    pl.DataFrame({**row, "request_id": ["r1"], **changes}).write_parquet(path)
    with pytest.raises(UnimixerError) as found:
        load_file(events, "exposures", path, experiment=given)
    assert sentence in str(found.value)
    assert events.counts()["exposures"] == 0
    pl.DataFrame([row]).write_parquet(path)
    assert load_file(events, "exposures", path, experiment=given).added == 1
    events.close()


def test_a_user_and_old_events_are_deleted_by_the_command(
    events: Events, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"e{n},{n % 3},click,2026-03-{10 + n}" for n in range(6)]
    (tmp_path / "events.csv").write_text("\n".join(["event_id,unit,event,time", *lines]))
    load_file(events, "outcomes", tmp_path / "events.csv")
    for words, deleted in (
        (["--unit", "1.0", "--unit", "nobody"], 2),
        (["--before", "2026-03-13"], 2),
        (["--before", "2026-03-13"], 0),
    ):
        code, found, _ = run("delete", "--database", address, *words, capsys=capsys)
        assert (code, found["outcomes"]) == (0, deleted)
    assert [row[0] for row in outcomes(events)] == ["e3", "e5"]
    code, found, _ = run("delete", "--database", address, capsys=capsys)
    assert (code, found["error"]) == (2, "give what to delete: --unit ID, or --before DAY, one of them")


def test_a_deletion_may_take_as_long_as_a_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unimixer.cli.abtest.read import QUERY_S

    address, limits = f"sqlite:///{tmp_path / 'events.sqlite'}", []
    Events(address).close()

    def spy(address: str, *, timeout: float = 30.0, create: bool = True) -> Events:
        limits.append(timeout)
        return Events(address, timeout=timeout, create=create)

    monkeypatch.setattr("unimixer.abtest.events.Events", spy)
    assert run("delete", "--database", address, "--unit", "7", capsys=capsys)[0] == 0
    assert limits == [QUERY_S]


def test_the_command_assigns_as_python_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unimixer.abtest.assignment import assign

    given = experiment(targeting={"tab": ["home"]}, traffic=0.5)
    (tmp_path / "mixer.yaml").write_text(dump_yaml(given))
    units = [str(unit) for unit in range(30)]
    code, found, _ = run("assign", str(tmp_path / "mixer.yaml"), *units, "--context", "tab=home", capsys=capsys)
    assert code == 0
    assert found["units"] == {unit: assign(given, unit, {"tab": "home"})._asdict() for unit in units}
    at = ["--context", "tab=home", "--at", "2026-02-01"]
    _, found, _ = run("assign", str(tmp_path / "mixer.yaml"), "7", *at, capsys=capsys)
    assert found["units"]["7"] == {"arm": None, "reason": "not started", "propensity": 0.0}
    code, found, _ = run("assign", str(tmp_path / "mixer.yaml"), "7", "--context", "tab", capsys=capsys)
    assert (code, found["error"]) == (2, "--context 'tab': expected COLUMN=VALUE")
    (tmp_path / "mixer.yaml").write_text(dump_yaml(experiment(targeting={"is_new": [True]})))
    for value, reason in (("true", "assigned"), ("1", "assigned"), ("false", "targeting")):
        _, found, _ = run("assign", str(tmp_path / "mixer.yaml"), "7", "--context", f"is_new={value}", capsys=capsys)
        assert found["units"]["7"]["reason"] == reason
