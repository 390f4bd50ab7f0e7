"""Outcomes over HTTP: once by their id, in the database before the answer says so, refused in one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arm_cases import rows
from served import API_KEY, Answer, Served

from unimixer.serving.http.outcomes import read_outcomes

NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def place(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Path]]:
    database = tmp_path_factory.mktemp("outcomes") / "events.sqlite"
    options = ("--database", f"sqlite:///{database}", "--max-body", "20000")
    with Served(bundles[0], toy_features, *options, keys=True) as served:
        yield served, database


def send(served: Served, body: Any, key: str = API_KEY) -> Answer:
    client = served.client()
    answer = client.ask("POST", "/v1/outcomes", body, {"X-API-Key": key})
    client.close()
    return answer


def test_an_outcome_is_in_the_database_once(place: tuple[Served, Path]) -> None:
    served, database = place
    before = time.time_ns() // 1000
    full = {"event_id": "a", "unit": 7.0, "event": "watch", "value": 3, "time": "2026-03-01T12:00:00+01:00",
            "request_id": "r1", "item": "i1"}  # fmt: skip
    plain = {"event_id": "b", "unit": "7", "event": "click"}
    assert send(served, {"events": [full, plain, plain]}).json == {"added": 2, "repeated": 1}
    assert send(served, {"events": [{**plain, "value": 9}]}).json == {"added": 0, "repeated": 1}
    one, other = rows(database, "outcomes", "event_id")
    assert {**one, "received": 0} == {**full, "unit": "7", "value": 3.0, "time": 1_772_362_800_000_000, "received": 0}
    assert (other["unit"], other["value"], other["request_id"]) == ("7", 1.0, None)
    assert before <= other["time"] == other["received"] <= time.time_ns() // 1000
    assert served.metrics()['unimixer_outcomes_total{result="repeated"}'] == 2


def test_a_body_is_bounded_and_needs_the_key(place: tuple[Served, Path]) -> None:
    served, database = place
    count = len(rows(database, "outcomes"))
    event = {"event_id": "c", "unit": "7", "event": "click"}
    assert send(served, {"events": [event]}, key="wrong-key-0123456789").status == 401
    assert send(served, {"events": [event] * 1_000}).status == 413
    assert send(served, b"{").status == 400
    assert len(rows(database, "outcomes")) == count


def test_one_mistake_and_nothing_of_the_body_is_written(place: tuple[Served, Path]) -> None:
    served, database = place
    count = len(rows(database, "outcomes"))
    good = {"event_id": "d", "unit": "7", "event": "click"}
    for bad, sentence in (
        ({"unit": "7", "event": "click"}, "events[1].event_id: required, but not given"),
        ({**good, "units": 1}, "events[1]: unknown field 'units'; did you mean 'unit'?"),
        ({**good, "received": NOW}, "unknown field 'received'; the server writes when an event arrived"),
        ({**good, "unit": ""}, "events[1].unit: the id is empty"),
        ({**good, "unit": [1]}, "events[1].unit: an id is text or an integer"),
        ({**good, "value": "1"}, "events[1].value: expected a finite number, found '1'"),
        ({**good, "value": True}, "events[1].value: expected a finite number"),
        ({**good, "time": 1_800_000_000_000}, "is not between 2000 and 2200 in microseconds since 1970"),
        ({**good, "time": "soon"}, "events[1].time='soon' is no time; write it as 2026-03-01T12:00:00Z"),
        ({**good, "event": "\0"}, "has the character NUL"),
        ({**good, "unit": "u" * 501}, "the text has 501 bytes, at most 500 are allowed"),
    ):
        answer = send(served, {"events": [good, bad]})
        assert answer.status == 422
        assert sentence in answer.error
    assert "expected a list of at least one object" in send(served, {"events": []}).error
    assert "unknown field 'event'; did you mean 'events'?" in send(served, {"event": []}).error
    assert len(rows(database, "outcomes")) == count


def test_early_late_and_future_events_are_kept_with_the_time_of_their_arrival() -> None:
    times = {"past": NOW - 10**13, "future": NOW + 10**13}
    found = read_outcomes(
        {"events": [{"event_id": name, "unit": 1, "event": "e", "time": at} for name, at in times.items()]}, now=NOW
    )
    assert [(row.time, row.received) for row in found] == [(at, NOW) for at in times.values()]


def test_a_server_without_a_database_has_no_such_path(shared: Served) -> None:
    client = shared.client()
    assert client.ask("POST", "/v1/outcomes", {"events": []}).status == 404
    client.close()
