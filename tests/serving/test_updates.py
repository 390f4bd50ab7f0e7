"""Changes of the store over HTTP: ranking does not wait for them, and what an answer says about them is true."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from served import Answer, Served
from toy import DAY, START

from unimixer.serving.stores import open_store


def event(name: str | None = None) -> dict[str, Any]:
    """A click that happened, with the sender's name of it."""
    row = {"user_id": "u3", "item_id": "i7", "time_ms": START + 19 * DAY, "is_click": 1}
    return row if name is None else {**row, "event_id": name}


def counts(features: Path) -> dict[str, int]:
    store = open_store(str(features))
    try:
        return store.counts()
    finally:
        store.close()


def test_updates_that_wait_for_another_writer_are_refused_in_time_undone_and_keep_no_ranking_waiting(
    bundles: tuple[Path, Path], features: Path
) -> None:
    with Served(bundles[0], features) as served:
        before, ranked = counts(features), served.rank()
        assert ranked.status == 200
        writer = sqlite3.connect(features, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        found: list[tuple[Answer, float]] = []

        def update(path: str, body: Any) -> None:
            asked = time.monotonic()
            answer = served.admin(path, body)
            found.append((answer, time.monotonic() - asked))

        updates = [
            ("events", {"events": [event()]}),
            ("events", {"events": [event("late")]}),
            ("items", {"rows": [{"item_id": "new", "price": 3}]}),
            ("users", {"rows": [{"user_id": "new", "age": 3}]}),
        ]
        threads = [threading.Thread(target=update, args=one) for one in updates]
        for thread in threads:
            thread.start()
        client, end, statuses = served.client(), time.monotonic() + 1.5, []
        while time.monotonic() < end:
            statuses.append(client.rank().status)
        client.close()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert len(statuses) > 20
        assert {answer.status for answer, _ in found} == {503}
        assert {answer.headers["Retry-After"] for answer, _ in found} == {"1"}
        said = {answer.error.partition(": ")[2] or answer.error for answer, _ in found}
        assert said <= {
            "the feature store cannot be used now (another process is writing to it or has locked it)",
            "nothing was written within 2 s; send fewer rows or try again",
        }
        assert max(seconds for _, seconds in found) < 3  # the time of a request is 2 s
        writer.execute("ROLLBACK")
        writer.close()
        time.sleep(0.5)  # for a write that comes late
        assert counts(features) == before
        assert served.admin("events", {"events": [event("late")]}).json == {"events": 1, "repeated": 0}
        assert counts(features) == {**before, "events": before["events"] + 1}


def test_an_event_that_is_sent_again_with_its_id_is_one_event(bundles: tuple[Path, Path], features: Path) -> None:
    with Served(bundles[0], features) as served:
        before = counts(features)["events"]
        for expected in ({"events": 2, "repeated": 0}, {"events": 0, "repeated": 2}):
            body = {"events": [event("a"), event("b")]}
            assert served.admin("events", body).json == expected
        assert served.admin("events", {"events": [event("b"), event("c")]}).json == {"events": 1, "repeated": 1}
        assert served.admin("events", {"events": [event(), event()]}).json == {"events": 2}
        assert counts(features)["events"] == before + 5
        for wrong, said in (
            (3, "events[0].event_id: expected a text of 1 to 200 characters"),
            ("", "events[0].event_id: expected a text of 1 to 200 characters"),
            ("x" * 201, "events[0].event_id: expected a text of 1 to 200 characters"),
        ):
            answer = served.admin("events", {"events": [{**event(), "event_id": wrong}]})
            assert (answer.status, answer.error) == (422, said)
        answer = served.admin("events", {"events": [event("d"), event("d")]})
        assert (answer.status, answer.error) == (
            422,
            "events[1].event_id: events[0] has the same id; give every event its own",
        )
        assert counts(features)["events"] == before + 5
